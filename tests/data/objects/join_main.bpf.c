// One half of a program in two objects: uses a function, a map and a variable of the other half.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern int classify(__u32 length);
extern __u32 limit;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} classes SEC(".maps") __weak;

static __u64 packets;

// The other half has a strong one.
__weak __noinline int verdict(int class)
{
	return XDP_ABORTED;
}

SEC("xdp")
int joined(struct xdp_md *ctx)
{
	__u32 length = ctx->data_end - ctx->data;
	__u32 class = classify(length);
	__u64 one = 1;

	__sync_fetch_and_add(&packets, 1);
	if (length > limit)
		bpf_map_update_elem(&classes, &class, &one, BPF_ANY);
	return verdict(class);
}

char LICENSE[] SEC("license") = "GPL";
