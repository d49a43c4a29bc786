// Counts system calls by number in a hash, and reports each tenth call of a number through a ring buffer.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

// The record of raw_syscalls:sys_enter, as its format file in tracefs describes it.
struct sys_enter {
	__u64 common;
	long id;
	unsigned long args[6];
};

struct event {
	__u64 time_ns;
	__u64 calls;
	__u32 pid;
	__u32 number;
	char command[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} events SEC(".maps");

SEC("tracepoint/raw_syscalls/sys_enter")
int on_enter(struct sys_enter *ctx)
{
	__u32 number = ctx->id;
	__u64 one = 1, *count = bpf_map_lookup_elem(&calls, &number);
	if (!count) {
		bpf_map_update_elem(&calls, &number, &one, BPF_NOEXIST);
		return 0;
	}
	__u64 now = __sync_fetch_and_add(count, 1) + 1;
	if (now % 10)
		return 0;
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	event->time_ns = bpf_ktime_get_ns();
	event->calls = now;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->number = number;
	bpf_get_current_comm(event->command, sizeof(event->command));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
