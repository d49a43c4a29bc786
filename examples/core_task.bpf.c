// Reads fields of the current task wherever the running kernel keeps them: CO-RE relocations of several kinds.
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

// The few members that the program reads; the loader finds their true places by name.
struct mm_struct {
	unsigned long total_vm;
} __attribute__((preserve_access_index));

struct task_struct {
	int pid;
	int tgid;
	unsigned int flags;
	char comm[16];
	struct task_struct *real_parent;
	struct mm_struct *mm;
	unsigned int in_execve : 1;
} __attribute__((preserve_access_index));

// Kernels before 5.14 called it `state`.
struct task_struct___old {
	long state;
} __attribute__((preserve_access_index));

struct task_struct___new {
	unsigned int __state;
} __attribute__((preserve_access_index));

enum pid_type {
	PIDTYPE_TGID,
};

struct task {
	int pid;
	int tgid;
	int parent;
	__u32 flags;
	__u64 state;
	__u64 pages;
	__u32 comm_bytes;
	__u32 task_bytes;
	__u32 tgid_kind;
	__u32 in_execve;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct task);
} last SEC(".maps");

SEC("raw_tracepoint/sched_switch")
int read_task(void *ctx)
{
	struct task_struct *current = (void *)bpf_get_current_task();
	__u32 zero = 0;
	struct task *task = bpf_map_lookup_elem(&last, &zero);
	if (!task)
		return 0;
	task->pid = BPF_CORE_READ(current, pid);
	task->tgid = BPF_CORE_READ(current, tgid);
	task->parent = BPF_CORE_READ(current, real_parent, pid);
	task->flags = BPF_CORE_READ(current, flags);
	task->pages = BPF_CORE_READ(current, mm, total_vm);
	task->in_execve = BPF_CORE_READ_BITFIELD_PROBED(current, in_execve);
	task->comm_bytes = bpf_core_field_size(current->comm);
	task->task_bytes = bpf_core_type_size(struct task_struct);
	if (bpf_core_enum_value_exists(enum pid_type, PIDTYPE_TGID))
		task->tgid_kind = bpf_core_enum_value(enum pid_type, PIDTYPE_TGID);
	bpf_core_read_str(task->comm, sizeof(task->comm), &current->comm);
	struct task_struct___new *new = (void *)current;
	struct task_struct___old *old = (void *)current;
	if (bpf_core_field_exists(new->__state))
		task->state = BPF_CORE_READ(new, __state);
	else
		task->state = BPF_CORE_READ(old, state);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
