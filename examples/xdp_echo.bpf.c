// Sends ICMP echo requests and UDP packets back to where they came from: MAC addresses, IP addresses and ports
// swapped, the rest passed on. Swapping keeps every checksum; the type of an echo changes it by a constant.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ICMP_ECHOREPLY 0
#define ICMP_ECHO 8

struct icmphdr {
	__u8 type;
	__u8 code;
	__sum16 checksum;
};

__u64 echoed;

static __always_inline void swap_mac(struct ethhdr *eth)
{
	__u8 mac[ETH_ALEN];
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
}

SEC("xdp")
int echo(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5)
		return XDP_PASS;
	if (ip->protocol == IPPROTO_ICMP) {
		struct icmphdr *icmp = (void *)(ip + 1);
		if ((void *)(icmp + 1) > end || icmp->type != ICMP_ECHO)
			return XDP_PASS;
		icmp->type = ICMP_ECHOREPLY;
		__u32 sum = icmp->checksum + bpf_htons(ICMP_ECHO << 8);
		icmp->checksum = sum + (sum >> 16);
	} else if (ip->protocol == IPPROTO_UDP) {
		struct udphdr *udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return XDP_PASS;
		__be16 port = udp->source;
		udp->source = udp->dest;
		udp->dest = port;
	} else {
		return XDP_PASS;
	}
	__be32 address = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = address;
	swap_mac(eth);
	__sync_fetch_and_add(&echoed, 1);
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
