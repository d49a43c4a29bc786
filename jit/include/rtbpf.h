/* Programs that were compiled ahead of time: what their object files define and want. docs/jit-abi.md tells more. */
#ifndef RTBPF_H
#define RTBPF_H

#include <stddef.h>
#include <stdint.h>

enum rtbpf_fault {
	RTBPF_FAULT_NONE = 0,
	RTBPF_FAULT_OUT_OF_FUEL = 1,
	RTBPF_FAULT_CANCELLED = 2,
	RTBPF_FAULT_HELPER = 3,
	RTBPF_FAULT_MEMORY = 4,
	RTBPF_FAULT_THROWN = 5,
	RTBPF_FAULT_DEADLINE = 6,
	RTBPF_FAULT_TRAP = 7,
};

/* One run. Set stack_top and fault_at (UINT32_MAX), and what the program's helpers use; the rest is 0. */
struct rtbpf_frame {
	void *ctx;             /* set by prog_NAME */
	void *stack_top;       /* end of 512 bytes for each frame of the deepest call chain, aligned to 8 */
	int64_t fuel;
	uint32_t fault;        /* enum rtbpf_fault; what prog_NAME returned counts when it is 0 */
	uint32_t fault_at;     /* instruction */
	uint32_t tail_calls;
	uint32_t cpu;
	uint64_t entry_sp;
	void *data;
	void *data_end;
	void *data_meta;
	const uint32_t *cancel;
	void *host;            /* yours */
	void *stack;
	uint64_t second;       /* R2 of the entry */
	uint32_t helper;
};

_Static_assert(sizeof(struct rtbpf_frame) == 112, "layout of the frame");
_Static_assert(offsetof(struct rtbpf_frame, fault) == 24, "layout of the frame");
_Static_assert(offsetof(struct rtbpf_frame, cancel) == 72, "layout of the frame");
_Static_assert(offsetof(struct rtbpf_frame, helper) == 104, "layout of the frame");

/* Type of prog_NAME, defined by object files. */
typedef uint64_t rtbpf_prog(void *ctx, struct rtbpf_frame *frame);
/* Type of entry_NAME, defined by object files: the same program with the context in the frame. Tail calls go there. */
typedef uint64_t rtbpf_entry(struct rtbpf_frame *frame);
/* Type of rtbpf_helper_ID, wanted by object files. */
typedef uint64_t rtbpf_helper(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, struct rtbpf_frame *);

#endif
