// A dispatcher that tail-calls one parser per IP protocol, through a program array set up in the object itself, and a
// global function that the parsers share.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

__u64 seen[3];

int on_tcp(struct xdp_md *ctx);
int on_udp(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 256);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} parsers SEC(".maps") = {
	.values = {
		[IPPROTO_TCP] = (void *)&on_tcp,
		[IPPROTO_UDP] = (void *)&on_udp,
	},
};

// Verified once, for any argument.
__noinline int note(__u32 kind)
{
	if (kind >= 3)
		return -1;
	seen[kind]++;
	return 0;
}

SEC("xdp")
int on_tcp(struct xdp_md *ctx)
{
	return note(1) ? XDP_ABORTED : XDP_PASS;
}

SEC("xdp")
int on_udp(struct xdp_md *ctx)
{
	return note(2) ? XDP_ABORTED : XDP_DROP;
}

SEC("xdp")
int dispatch(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	if ((void *)(ip + 1) <= end && eth->h_proto == bpf_htons(ETH_P_IP))
		bpf_tail_call(ctx, &parsers, ip->protocol);
	// No parser: the tail call came back.
	return note(0) ? XDP_ABORTED : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
