// The other half: what join_main leaves undefined, and a stronger `verdict`.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} classes SEC(".maps");

__u32 limit = 100;
static __u64 calls;

__noinline int verdict(int class)
{
	return class ? XDP_PASS : XDP_DROP;
}

__noinline int classify(__u32 length)
{
	__u32 key = 0;
	__u64 *seen = bpf_map_lookup_elem(&classes, &key);

	__sync_fetch_and_add(&calls, 1);
	if (seen)
		return *seen > 10;
	return length > limit;
}

char LICENSE[] SEC("license") = "GPL";
