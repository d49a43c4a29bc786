// Rewrites the destination port of UDP and TCP packets over IPv4, and their checksum with it.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

const volatile __u16 from_port = 8080;
const volatile __u16 to_port = 80;

#define L4 (ETH_HLEN + sizeof(struct iphdr))

SEC("tc")
int rewrite_port(struct __sk_buff *skb)
{
	struct iphdr ip;
	__be16 port, new_port = bpf_htons(to_port);
	__u32 sum_at, flags = sizeof(port);

	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.ihl != 5)
		return TC_ACT_OK;
	switch (ip.protocol) {
	case IPPROTO_TCP:
		sum_at = L4 + offsetof(struct tcphdr, check);
		break;
	case IPPROTO_UDP:
		sum_at = L4 + offsetof(struct udphdr, check);
		// A UDP checksum of 0 means none.
		flags |= BPF_F_MARK_MANGLED_0;
		break;
	default:
		return TC_ACT_OK;
	}
	// Both have the destination port at byte 2.
	if (bpf_skb_load_bytes(skb, L4 + 2, &port, sizeof(port)) || port != bpf_htons(from_port))
		return TC_ACT_OK;
	if (bpf_l4_csum_replace(skb, sum_at, port, new_port, flags))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, L4 + 2, &new_port, sizeof(new_port), 0))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
