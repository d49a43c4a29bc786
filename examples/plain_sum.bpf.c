// The plain context: r1 is memory, r2 its length. Returns the Internet checksum (RFC 1071) of the memory.
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

__attribute__((section("plain"), used)) u64 checksum(const u8 *bytes, u64 length)
{
	u64 sum = 0;
	for (u64 at = 0; at + 1 < length; at += 2)
		sum += (u32)bytes[at] << 8 | bytes[at + 1];
	if (length & 1)
		sum += (u32)bytes[length - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}
