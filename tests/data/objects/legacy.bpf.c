// SPDX-License-Identifier: MIT OR Apache-2.0
// Map records as they were before BTF, in sections of two names; built without debug information.

typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

struct map {
	u32 type, key_size, value_size, max_entries, flags;
};

struct map counts SEC("maps") = { 2, 4, 8, 4, 0 };
struct map keys SEC("maps") = { 1, 16, 4, 128, 1 };

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static int step = 3;

static __attribute__((noinline)) u64 weigh(u64 n)
{
	return n * step + 1;
}

SEC("socket")
int count(void *ctx)
{
	u32 key = 1;
	u64 *value = map_lookup(&counts, &key);

	if (!value)
		return 0;
	*value = weigh(*value);
	return map_lookup(&keys, value) != 0;
}

SEC("lirc_mode2/test")
int decode(u32 *sample)
{
	step = *sample & 7;
	return weigh(step);
}

char _license[] SEC("license") = "MIT";
