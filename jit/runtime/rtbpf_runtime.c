/* Helpers for programs that were compiled ahead of time, over the maps of rtbpf_runtime.h. All are weak: define your own
 * in their place, and those that are missing here. Numbers and meanings: bpf-helpers(7). */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "rtbpf_runtime.h"

#define HELPER __attribute__((weak)) uint64_t
#define MAX_TAIL_CALLS 33

static uint32_t hash(const uint8_t *key, uint32_t bytes)
{
	uint32_t h = 2166136261u;

	while (bytes--)
		h = (h ^ *key++) * 16777619u;
	return h ^ h >> 15;
}

/* The link that leads to the element with this key, or to the end of its chain. */
static uint32_t *find(struct rtbpf_map *map, const void *key)
{
	uint32_t *link = &map->links[hash(key, map->key_size) % map->max_entries];

	while (*link && memcmp((uint8_t *)map->values + (size_t)(*link - 1) * map->stride, key, map->key_size))
		link = &map->links[map->max_entries + *link - 1];
	return link;
}

static int is_hash(const struct rtbpf_map *map)
{
	return map->kind == RTBPF_HASH || map->kind == RTBPF_LRU_HASH;
}

/* The neighbours of an element in the order of uses. */
static uint32_t *older(struct rtbpf_map *map, uint32_t element)
{
	return &map->order[element - 1];
}

static uint32_t *newer(struct rtbpf_map *map, uint32_t element)
{
	return &map->order[map->max_entries + element - 1];
}

/* Takes an element out of the order, or nothing where there is none. */
static void forget(struct rtbpf_map *map, uint32_t element)
{
	uint32_t before, after;

	if (map->kind != RTBPF_LRU_HASH)
		return;
	before = *older(map, element);
	after = *newer(map, element);
	*(before ? newer(map, before) : &map->oldest) = after;
	*(after ? older(map, after) : &map->newest) = before;
}

/* Puts an element that is not in the order at its end. */
static void use(struct rtbpf_map *map, uint32_t element)
{
	if (map->kind != RTBPF_LRU_HASH)
		return;
	*older(map, element) = map->newest;
	*newer(map, element) = 0;
	*(map->newest ? newer(map, map->newest) : &map->oldest) = element;
	map->newest = element;
}

/* The element's value lies behind its key, at a multiple of 8. */
static uint8_t *value_of(struct rtbpf_map *map, uint32_t element)
{
	return (uint8_t *)map->values + (size_t)(element - 1) * map->stride + ((map->key_size + 7) & ~7u);
}

void *rtbpf_map_lookup(struct rtbpf_map *map, const void *key, uint32_t cpu)
{
	uint32_t index;

	switch (map->kind) {
	case RTBPF_ARRAY:
	case RTBPF_PERCPU_ARRAY:
		memcpy(&index, key, sizeof(index));
		if (index >= map->max_entries)
			return NULL;
		if (map->kind == RTBPF_ARRAY)
			cpu = 0;
		return (uint8_t *)map->values + ((size_t)cpu * map->max_entries + index) * map->stride;
	case RTBPF_HASH:
	case RTBPF_LRU_HASH:
		index = *find(map, key);
		if (!index)
			return NULL;
		forget(map, index);
		use(map, index);
		return value_of(map, index);
	case RTBPF_PROG_ARRAY:
		break;
	}
	return NULL;
}

int64_t rtbpf_map_update(struct rtbpf_map *map, const void *key, const void *value, uint64_t flags, uint32_t cpu)
{
	void *found = rtbpf_map_lookup(map, key, cpu);
	uint32_t *link, element;

	if (map->kind == RTBPF_PROG_ARRAY || flags > 2)
		return -EINVAL;
	if (flags == 1 && (found || !is_hash(map)))
		return -EEXIST;
	if (!found && !is_hash(map))
		return -E2BIG;
	if (!found && flags == 2)
		return -ENOENT;
	if (!found) {
		if (!map->free && map->used == map->max_entries) {
			if (map->kind != RTBPF_LRU_HASH)
				return -E2BIG;
			rtbpf_map_delete(map, (uint8_t *)map->values + (size_t)(map->oldest - 1) * map->stride);
		}
		link = find(map, key);
		if (map->free) {
			element = map->free;
			map->free = map->links[map->max_entries + element - 1];
		} else {
			element = ++map->used;
		}
		memcpy((uint8_t *)map->values + (size_t)(element - 1) * map->stride, key, map->key_size);
		map->links[map->max_entries + element - 1] = 0;
		*link = element;
		use(map, element);
		found = value_of(map, element);
	}
	memcpy(found, value, map->value_size);
	return 0;
}

int64_t rtbpf_map_delete(struct rtbpf_map *map, const void *key)
{
	uint32_t *link, element;

	if (!is_hash(map))
		return -EINVAL;
	link = find(map, key);
	element = *link;
	if (!element)
		return -ENOENT;
	forget(map, element);
	*link = map->links[map->max_entries + element - 1];
	map->links[map->max_entries + element - 1] = map->free;
	map->free = element;
	return 0;
}

#define ARGS uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5, struct rtbpf_frame *frame
#define UNUSED (void)r1, (void)r2, (void)r3, (void)r4, (void)r5, (void)frame

HELPER rtbpf_helper_1(ARGS) /* map_lookup_elem */
{
	UNUSED;
	return (uintptr_t)rtbpf_map_lookup((void *)r1, (void *)r2, frame->cpu);
}

HELPER rtbpf_helper_2(ARGS) /* map_update_elem */
{
	UNUSED;
	return rtbpf_map_update((void *)r1, (void *)r2, (void *)r3, r4, frame->cpu);
}

HELPER rtbpf_helper_3(ARGS) /* map_delete_elem */
{
	UNUSED;
	return rtbpf_map_delete((void *)r1, (void *)r2);
}

HELPER rtbpf_helper_5(ARGS) /* ktime_get_ns */
{
	struct timespec now;

	UNUSED;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

HELPER rtbpf_helper_6(ARGS) /* trace_printk, to standard error: numbers, %c, %s, %p and %% */
{
	const char *at = (const char *)r1, *end = at + (uint32_t)r2;
	const uint64_t args[3] = { r3, r4, r5 };
	unsigned int next = 0;
	int wide;

	UNUSED;
	for (; at < end && *at; at++) {
		if (*at != '%' || at + 1 >= end) {
			fputc(*at, stderr);
			continue;
		}
		for (wide = 0, at++; at + 1 < end && *at == 'l'; at++)
			wide = 1;
		if (*at == '%') {
			fputc('%', stderr);
			continue;
		}
		if (next == 3)
			return -EINVAL;
		switch (*at) {
		case 'd':
		case 'i':
			fprintf(stderr, "%lld", wide ? (long long)args[next++] : (long long)(int32_t)args[next++]);
			break;
		case 'u':
			fprintf(stderr, "%llu", (unsigned long long)(wide ? args[next++] : (uint32_t)args[next++]));
			break;
		case 'x':
			fprintf(stderr, "%llx", (unsigned long long)(wide ? args[next++] : (uint32_t)args[next++]));
			break;
		case 'c':
			fputc((int)args[next++], stderr);
			break;
		case 's':
			fputs((const char *)args[next++], stderr);
			break;
		case 'p':
			fprintf(stderr, "%p", (void *)args[next++]);
			break;
		default:
			return -EINVAL;
		}
	}
	return 0;
}

HELPER rtbpf_helper_7(ARGS) /* get_prandom_u32: xorshift, good for sampling, not for secrets */
{
	static uint64_t state = 0x9e3779b97f4a7c15u;

	UNUSED;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32);
}

HELPER rtbpf_helper_8(ARGS) /* get_smp_processor_id */
{
	UNUSED;
	return frame->cpu;
}

/* Legacy loads (LD_ABS, LD_IND): big-endian, from frame->data; negative when out of range. */
HELPER rtbpf_packet_load(ARGS)
{
	const uint8_t *data = frame->data;
	uint64_t length = (uint64_t)((uint8_t *)frame->data_end - data), value = 0;
	int64_t off = (int32_t)r2;

	UNUSED;
	if (off < 0 || (uint64_t)off + r3 > length)
		return UINT64_MAX;
	for (uint64_t i = 0; i < r3; i++)
		value = value << 8 | data[off + (int64_t)i];
	return value;
}

/* The entry that a tail call goes to, 0 for none. */
HELPER rtbpf_tail_call(ARGS)
{
	struct rtbpf_map *map = (void *)r2;
	uint32_t index = (uint32_t)r3;
	rtbpf_entry *entry = index < map->max_entries ? ((rtbpf_entry **)map->values)[index] : NULL;

	UNUSED;
	if (!entry || frame->tail_calls >= MAX_TAIL_CALLS)
		return 0;
	frame->tail_calls++;
	return (uintptr_t)entry;
}
