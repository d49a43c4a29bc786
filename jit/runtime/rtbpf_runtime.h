/* Maps for programs that were compiled ahead of time: `rtbpf compile OBJ -o OBJ.o --maps MAPS.c` writes definitions of
 * these structures. For one thread at a time. */
#ifndef RTBPF_RUNTIME_H
#define RTBPF_RUNTIME_H

#include "rtbpf.h"

#ifndef RTBPF_CPUS
#define RTBPF_CPUS 1 /* rtbpf_frame.cpu is below it */
#endif

enum rtbpf_map_kind {
	RTBPF_ARRAY,
	RTBPF_PERCPU_ARRAY,
	RTBPF_HASH,
	RTBPF_PROG_ARRAY,
	RTBPF_LRU_HASH,
};

struct rtbpf_map {
	enum rtbpf_map_kind kind;
	uint32_t key_size, value_size, max_entries;
	uint32_t stride;  /* bytes from one value (of hashes: key and value) to the next */
	void *values;     /* of arrays: by CPU, then by index; of program arrays: rtbpf_entry pointers */
	uint32_t *links;  /* of hashes: max_entries heads, then a next for each element, both counted from 1 */
	uint32_t used, free;
	uint32_t *order;  /* of LRU hashes: for each element the one used before it, then the one used after it */
	uint32_t oldest, newest;
};

/* What an XDP program finds behind R1: the kernel's xdp_md, then its packet's addresses. */
struct rtbpf_xdp {
	uint32_t hidden[3]; /* data, data_end, data_meta stand below */
	uint32_t ingress_ifindex, rx_queue_index, egress_ifindex;
	void *data, *data_end, *data_meta;
};

/* bpf_map_lookup_elem and its like, for the host. In an LRU hash each is a use; a new key takes the place of the one whose
 * last use is longest ago. */
void *rtbpf_map_lookup(struct rtbpf_map *map, const void *key, uint32_t cpu);
int64_t rtbpf_map_update(struct rtbpf_map *map, const void *key, const void *value, uint64_t flags, uint32_t cpu);
int64_t rtbpf_map_delete(struct rtbpf_map *map, const void *key);

#endif
