// SPDX-License-Identifier: MIT OR Apache-2.0
// One object with a little of everything that a loader meets: a seed for mutations, not a useful program.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define IN(name) __attribute__((section(name)))
#define __uint(name, val) int (*name)[val]
#define __type(name, val) typeof(val) *name
#define __array(name, val) typeof(val) *name[]
#define CORE __attribute__((preserve_access_index))

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*trace_printk)(const char *fmt, u32 size, ...) = (void *)6;
static long (*tail_call)(void *ctx, void *map, u32 index) = (void *)12;
static long (*for_each)(void *map, void *callback, void *ctx, u64 flags) = (void *)164;

enum state { IDLE, BUSY = 7, DONE = 1 << 20 };

union word {
	u32 whole;
	u8 part[4];
};

struct event {
	u64 when;
	enum state state : 24;
	u32 cpu : 8;
	union word word;
	char name[16];
	struct event *next;
};

struct task_struct {
	int pid;
	struct task_struct *real_parent;
	char comm[16];
} CORE;

struct {
	__uint(type, 1);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, struct event);
} events SEC(".maps");

struct inner {
	__uint(type, 2);
	__uint(max_entries, 4);
	__type(key, u32);
	__type(value, u64);
} first SEC(".maps"), second SEC(".maps");

struct {
	__uint(type, 12);
	__uint(max_entries, 2);
	__type(key, u32);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { &first, &second } };

int last(void *ctx);

struct {
	__uint(type, 3);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(u32));
	__array(values, int(void *));
} calls SEC(".maps") = { .values = { [1] = (void *)&last } };

const volatile u32 limit = 10;
volatile u64 total;
struct event latest = { .when = 1, .name = "latest" };
static const char *const words[] = { "one", "two" };
const u64 weights[4] SEC(".rodata.weights") = { 1, 2, 4, 8 };

extern u32 LINUX_KERNEL_VERSION IN(".kconfig");
extern _Bool CONFIG_PREEMPT_RT IN(".kconfig") __attribute__((weak));
extern void bpf_rcu_read_lock(void) IN(".ksyms") __attribute__((weak));
extern const void init_task IN(".ksyms") __attribute__((weak));

struct pair {
	u64 sum;
	u32 count;
};

static long add_up(void *map, u32 *key, struct event *event, struct pair *pair)
{
	pair->sum += event->when + weights[*key & 3];
	pair->count++;
	return pair->count >= limit;
}

__attribute__((noinline)) u32 checksum(const struct event *event)
{
	u32 sum = 0;
	if (!event)
		return 0;
	for (int i = 0; i < 16; i++)
		sum = sum * 31 + event->name[i];
	return sum ^ event->word.part[event->cpu & 3];
}

__attribute__((noinline, weak)) int hook(u32 n)
{
	return n + 1;
}

SEC("kprobe/do_exit")
int first_prog(struct task_struct *task)
{
	struct pair pair = {};
	u32 key = LINUX_KERNEL_VERSION & 63;
	struct event *event = map_lookup(&events, &key);
	u64 *inner_map = map_lookup(&outer, &key);

	if (bpf_rcu_read_lock)
		bpf_rcu_read_lock();
	if (event) {
		event->when = __builtin_preserve_field_info(task->pid, 1);
		event->state = CONFIG_PREEMPT_RT ? BUSY : DONE;
		event->word.whole = checksum(event);
		__sync_fetch_and_add(&total, event->when);
	}
	if (inner_map)
		map_update(inner_map, &key, &pair.sum, 0);
	if (__builtin_preserve_type_info(*(struct task_struct *)0, 0))
		pair.sum = __builtin_preserve_enum_value(*(enum state *)BUSY, 1);
	for_each(&events, add_up, &pair, 0);
	trace_printk("sum %llu", 9, pair.sum + (u64)&init_task);
	return hook(pair.count) + task->real_parent->pid + (words[key & 1] != 0);
}

SEC("xdp")
int last(void *ctx)
{
	latest.when++;
	tail_call(ctx, &calls, 1);
	return total > latest.when ? 2 : 1;
}

SEC("xdp")
int another(struct { u32 data, data_end; } *ctx)
{
	u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	return data + 14 > end ? 1 : data[12] == 8 ? 2 : 0;
}

char _license[] SEC("license") = "GPL";
u32 _version SEC("version") = 0x060c00;
