// Compute programs for the side-by-side bench. Each is one function over 4096 bytes of memory, in a section of its own,
// compiled for BPF (recorded as NAME.bpf) and for the host from this same text. See ../record.sh.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define PROG(name) __attribute__((section("p." #name), used)) u64 name(u8 *mem, u64 len)

PROG(checksum) {
    u64 sum = 0;
    for (u32 i = 0; i < 4096; i += 4) sum += *(u32 *)(mem + i);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    return (sum & 0xffff) + (sum >> 16);
}

#define ROL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define SIP                                                                                                            \
    v0 += v1; v1 = ROL(v1, 13); v1 ^= v0; v0 = ROL(v0, 32); v2 += v3; v3 = ROL(v3, 16); v3 ^= v2;                     \
    v0 += v3; v3 = ROL(v3, 21); v3 ^= v0; v2 += v1; v1 = ROL(v1, 17); v1 ^= v2; v2 = ROL(v2, 32);

PROG(siphash) {
    u64 v0 = 0x736f6d6570736575, v1 = 0x646f72616e646f6d, v2 = 0x6c7967656e657261, v3 = 0x7465646279746573;
    for (u32 i = 0; i < 2048; i += 8) {
        u64 m = *(u64 *)(mem + i);
        v3 ^= m; SIP SIP v0 ^= m;
    }
    v2 ^= 0xff; SIP SIP SIP SIP
    return v0 ^ v1 ^ v2 ^ v3;
}

PROG(murmur) {
    u32 h = 0x9747b28c;
    for (u32 i = 0; i < 2048; i += 4) {
        u32 k = *(u32 *)(mem + i);
        k *= 0xcc9e2d51; k = (k << 15) | (k >> 17); k *= 0x1b873593;
        h ^= k; h = (h << 13) | (h >> 19); h = h * 5 + 0xe6546b64;
    }
    h ^= h >> 16; h *= 0x85ebca6b; h ^= h >> 13; h *= 0xc2b2ae35;
    return h ^ (h >> 16);
}

PROG(fnv) {
    u64 h = 0xcbf29ce484222325;
    for (u32 i = 0; i < 2048; i++) h = (h ^ mem[i]) * 0x100000001b3;
    return h;
}

PROG(divide_constant) {
    u64 sum = 0;
    for (u32 i = 0; i < 2048; i += 4) { u32 x = *(u32 *)(mem + i); sum += x / 10 + x % 7 + (u64)x * 3 / 1000; }
    return sum;
}

PROG(divide_variable) {
    u64 sum = 0;
    for (u32 i = 0; i < 1024; i += 8) { u64 x = *(u64 *)(mem + i); u32 y = mem[i] | 1; sum += x / y + x % (y + 2); }
    return sum;
}

PROG(bubble_sort) {
    u32 a[32];
    for (u32 i = 0; i < 32; i++) a[i] = *(u32 *)(mem + i * 4);
    for (u32 n = 31; n > 0; n--)
        for (u32 i = 0; i < n; i++)
            if (a[i] > a[i + 1]) { u32 t = a[i]; a[i] = a[i + 1]; a[i + 1] = t; }
    return a[0] ^ a[15] ^ (u64)a[31] << 7;
}

PROG(insertion_sort) {
    u32 *a = (u32 *)(mem + 2048);
    for (u32 i = 0; i < 64; i++) a[i] = *(u32 *)(mem + i * 4);
    for (u32 i = 1; i < 64; i++) {
        u32 x = a[i], j = i;
        while (j > 0 && a[j - 1] > x) { a[j] = a[j - 1]; j--; }
        a[j] = x;
    }
    return a[0] ^ a[31] ^ (u64)a[63] << 9;
}

PROG(byte_scan) {
    u64 count = 0;
    for (u32 i = 0; i < 2048; i++) if (mem[i] == '/' || mem[i] == ' ') count += i;
    return count;
}

PROG(sieve) {
    u8 *s = mem + 2048;
    for (u32 i = 0; i < 2048; i++) s[i] = 1;
    u64 count = 0;
    for (u32 i = 2; i < 2048; i++)
        if (s[i]) { count++; for (u32 j = i * 2; j < 2048; j += i) s[j] = 0; }
    return count;
}

PROG(state_machine) {
    u32 state = 0; u64 words = 0, numbers = 0, other = 0;
    for (u32 i = 0; i < 2048; i++) {
        u8 c = mem[i] & 0x7f;
        switch (state) {
        case 0: if (c >= 'a') { state = 1; words++; } else if (c >= '0' && c <= '9') { state = 2; numbers++; } break;
        case 1: if (c < '0') state = 0; else if (c == 'z') state = 3; break;
        case 2: if (c < '0' || c > '9') state = 0; break;
        default: other += c; state = c & 1; break;
        }
    }
    return words + (numbers << 20) + (other << 40);
}

PROG(matrix) {
    u32 *a = (u32 *)mem, *b = (u32 *)(mem + 1024), *c = (u32 *)(mem + 2048);
    u64 sum = 0;
    for (u32 i = 0; i < 16; i++)
        for (u32 j = 0; j < 16; j++) {
            u32 x = 0;
            for (u32 k = 0; k < 16; k++) x += a[i * 16 + k] * b[k * 16 + j];
            c[i * 16 + j] = x; sum += x;
        }
    return sum;
}

PROG(parse) {
    u64 sum = 0;
    for (u32 p = 0; p < 2048; p += 64) {
        u8 *d = mem + p;
        u16 proto = (u16)(d[12] << 8 | d[13]);
        if (proto & 1) { sum++; continue; }
        u32 ihl = (d[14] & 15) * 4;
        if (ihl < 20) ihl = 20;
        if (ihl > 40) ihl = 40;
        u8 *l4 = d + ihl;
        u16 sport = (u16)(l4[0] << 8 | l4[1]), dport = (u16)(l4[2] << 8 | l4[3]);
        u32 src = (u32)d[26] << 24 | d[27] << 16 | d[28] << 8 | d[29];
        sum += d[23] == 6 ? sport ^ dport : d[23] == 17 ? sport + dport : src % 1021;
    }
    return sum;
}

PROG(lcg) {
    u64 x = *(u64 *)mem | 1;
    for (u32 i = 0; i < 1000; i++) x = (x ^ x >> 29) * 6364136223846793005ull + 1442695040888963407ull;
    return x ^ (x >> 33);
}

PROG(collatz) {
    u64 steps = 0;
    for (u32 i = 1; i < 64; i++) { u64 n = i; for (u32 k = 0; k < 120 && n != 1; k++) { n = n & 1 ? 3 * n + 1 : n >> 1; steps++; } }
    return steps;
}
