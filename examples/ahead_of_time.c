/* Links an XDP program that was compiled ahead of time, runs it on packets, reads its map:
 *
 *   rtbpf compile examples/xdp_counter.bpf.o -o counter.o --maps maps.c
 *   cc -no-pie -Ijit/include -Ijit/runtime examples/ahead_of_time.c maps.c jit/runtime/rtbpf_runtime.c counter.o
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <rtbpf_runtime.h>

extern rtbpf_prog prog_count;
extern struct rtbpf_map rtbpf_map_by_protocol;

struct traffic {
	uint64_t packets, bytes;
};

/* An Ethernet header, then IPv4 with this protocol. */
static void fill(uint8_t packet[60], uint8_t protocol)
{
	static const uint8_t head[] = { 0x08, 0x00, 0x45, 0, 0, 46, 0, 0, 0, 0, 64 };

	memset(packet, 0xff, 12);
	memcpy(packet + 12, head, sizeof(head));
	packet[23] = protocol;
}

int main(void)
{
	static uint8_t stack[8 * 512] __attribute__((aligned(16)));
	static const uint8_t protocols[] = { 17, 6, 17, 1, 17 };
	uint8_t packet[60] = { 0 };

	for (size_t i = 0; i < sizeof(protocols); i++) {
		fill(packet, protocols[i]);
		struct rtbpf_xdp ctx = { .data = packet, .data_end = packet + sizeof(packet), .data_meta = packet };
		struct rtbpf_frame frame = {
			.stack_top = stack + sizeof(stack),
			.fault_at = UINT32_MAX,
			.data = packet,
			.data_end = packet + sizeof(packet),
			.data_meta = packet,
		};
		uint64_t verdict = prog_count(&ctx, &frame);

		if (frame.fault != RTBPF_FAULT_NONE) {
			printf("fault %u at instruction %u\n", frame.fault, frame.fault_at);
			return 1;
		}
		printf("protocol %u: verdict %" PRIu64 "\n", protocols[i], verdict);
	}
	for (uint32_t key = 0; key < 256; key++) {
		struct traffic *traffic = rtbpf_map_lookup(&rtbpf_map_by_protocol, &key, 0);

		if (traffic->packets)
			printf("by_protocol[%u]: %" PRIu64 " packets, %" PRIu64 " bytes\n", key, traffic->packets, traffic->bytes);
	}
	return 0;
}
