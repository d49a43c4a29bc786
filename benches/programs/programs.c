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

// Literals and matches, a token byte before each: up to 15 bytes from the input, up to 18 from what was written.
PROG(lz_copy) {
    u8 *out = mem + 2048;
    u32 in = 0, at = 0;
    while (at < 1980 && in < 2000) {
        u32 token = mem[in++], literals = token & 15, length = (token >> 4) + 3;
        for (u32 i = 0; i < literals; i++) out[at++] = mem[in++];
        u32 back = mem[in++] + 1;
        if (back > at) continue;
        for (u32 i = 0; i < length; i++) { out[at] = out[at - back]; at++; }
    }
    return (u64)at << 32 | in;
}

static inline __attribute__((always_inline)) u8 base64_digit(u32 v) {
    return v < 26 ? v + 'A' : v < 52 ? v - 26 + 'a' : v < 62 ? v - 52 + '0' : v == 62 ? '+' : '/';
}

PROG(base64) {
    u8 *out = mem + 2048;
    for (u32 i = 0, o = 0; i < 1533; i += 3, o += 4) {
        u32 x = (u32)mem[i] << 16 | (u32)mem[i + 1] << 8 | mem[i + 2];
        out[o] = base64_digit(x >> 18);
        out[o + 1] = base64_digit(x >> 12 & 63);
        out[o + 2] = base64_digit(x >> 6 & 63);
        out[o + 3] = base64_digit(x & 63);
    }
    return *(u64 *)(mem + 2048) ^ *(u64 *)(mem + 4080);
}

// Counts characters and bytes that are none.
PROG(utf8) {
    u32 characters = 0, wrong = 0, i = 0;
    while (i < 2000) {
        u32 c = mem[i], more;
        if (c < 0x80) { i++; characters++; continue; }
        if (c >= 0xc2 && c < 0xe0) more = 1;
        else if ((c & 0xf0) == 0xe0) more = 2;
        else if (c >= 0xf0 && c < 0xf5) more = 3;
        else { i++; wrong++; continue; }
        u32 good = 0;
        while (good < more && (mem[i + 1 + good] & 0xc0) == 0x80) good++;
        if (good == more) characters++; else wrong++;
        i += 1 + good;
    }
    return (u64)characters << 32 | wrong;
}

PROG(binary_search) {
    u32 *a = (u32 *)(mem + 2048);
    u64 sum = 0;
    for (u32 i = 0, x = 7; i < 256; i++) { a[i] = x; x += 1 + (mem[i] << 16); }
    for (u32 i = 0; i < 512; i += 4) {
        u32 key = *(u32 *)(mem + i) >> 1, low = 0, high = 256;
        while (low < high) {
            u32 mid = (low + high) / 2;
            if (a[mid & 255] < key) low = mid + 1; else high = mid;
        }
        sum += low;
    }
    return sum;
}

PROG(heap_sort) {
    u32 *a = (u32 *)(mem + 2048);
    for (u32 i = 0; i < 128; i++) a[i] = *(u32 *)(mem + i * 4);
    for (u32 n = 128, start = 64; n > 1;) {
        u32 root, x;
        if (start > 0) { root = --start; x = a[root]; }
        else { n--; x = a[n]; a[n] = a[0]; root = 0; }
        for (u32 child; (child = 2 * root + 1) < n; root = child) {
            if (child + 1 < n && a[child + 1] > a[child]) child++;
            if (a[child] <= x) break;
            a[root] = a[child];
        }
        a[root] = x;
    }
    return a[0] ^ a[63] ^ (u64)a[127] << 11;
}

PROG(rc4) {
    u8 *s = mem + 2048, *out = mem + 2560;
    for (u32 i = 0; i < 256; i++) s[i] = i;
    for (u32 i = 0, j = 0; i < 256; i++) { u8 t = s[i]; j = (j + t + mem[i & 15]) & 255; s[i] = s[j]; s[j] = t; }
    u64 sum = 0;
    for (u32 n = 0, i = 0, j = 0; n < 1024; n++) {
        i = (i + 1) & 255;
        u8 t = s[i];
        j = (j + t) & 255;
        u8 o = s[j];
        s[i] = o; s[j] = t;
        out[n] = mem[n] ^ s[(t + o) & 255];
        sum += out[n];
    }
    return sum;
}

#define ROL32(x, b) (((x) << (b)) | ((x) >> (32 - (b))))
#define QUARTER(a, b, c, d)                                                                                            \
    a += b; d ^= a; d = ROL32(d, 16); c += d; b ^= c; b = ROL32(b, 12);                                                \
    a += b; d ^= a; d = ROL32(d, 8); c += d; b ^= c; b = ROL32(b, 7);

PROG(chacha) {
    u64 sum = 0;
    for (u32 block = 0; block < 4; block++) {
        u32 x[16];
        for (u32 i = 0; i < 16; i++) x[i] = *(u32 *)(mem + i * 4);
        x[12] = block;
        for (u32 i = 0; i < 10; i++) {
            QUARTER(x[0], x[4], x[8], x[12]) QUARTER(x[1], x[5], x[9], x[13])
            QUARTER(x[2], x[6], x[10], x[14]) QUARTER(x[3], x[7], x[11], x[15])
            QUARTER(x[0], x[5], x[10], x[15]) QUARTER(x[1], x[6], x[11], x[12])
            QUARTER(x[2], x[7], x[8], x[13]) QUARTER(x[3], x[4], x[9], x[14])
        }
        for (u32 i = 0; i < 16; i++) sum += x[i] + *(u32 *)(mem + i * 4);
    }
    return sum;
}

PROG(crc_table) {
    u32 *table = (u32 *)(mem + 2048);
    for (u32 i = 0; i < 256; i++) {
        u32 c = i;
        for (u32 k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
        table[i] = c;
    }
    u32 crc = 0xffffffff;
    for (u32 i = 0; i < 2048; i++) crc = table[(crc ^ mem[i]) & 255] ^ crc >> 8;
    return crc ^ 0xffffffff;
}

PROG(bloom) {
    u8 *bits = mem + 2048;
    for (u32 i = 0; i < 1024; i += 8) *(u64 *)(bits + i) = 0;
    u64 found = 0;
    for (u32 i = 0; i < 1024; i += 4) {
        u32 key = *(u32 *)(mem + i), h = key * 0x9e3779b1, seen = 1;
        for (u32 k = 0; k < 3; k++) {
            u32 bit = h >> 19;
            if (i < 512) bits[bit >> 3] |= 1 << (bit & 7);
            else seen &= bits[bit >> 3] >> (bit & 7);
            h = (h ^ h >> 15) * 0x85ebca77;
        }
        found += seen;
    }
    return found;
}

PROG(string_compare) {
    u8 *copy = mem + 2048;
    for (u32 i = 0; i < 2048; i++) copy[i] = mem[i];
    for (u32 i = 0; i < 2048; i += 64) copy[i + (mem[i] & 63)] ^= 1;
    u64 order = 0;
    for (u32 i = 0; i < 2048; i += 64) {
        u32 k = 0;
        while (k < 64 && mem[i + k] == copy[i + k]) k++;
        order = order * 3 + (k == 64 ? 1 : mem[i + k] < copy[i + k] ? 0 : 2) + k;
    }
    return order;
}

PROG(bit_count) {
    u64 sum = 0;
    for (u32 i = 0; i < 2048; i += 8) {
        u64 x = *(u64 *)(mem + i), y = x;
        x -= x >> 1 & 0x5555555555555555;
        x = (x & 0x3333333333333333) + (x >> 2 & 0x3333333333333333);
        x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f;
        sum += x * 0x0101010101010101 >> 56;
        for (y &= 0xffff; y; y &= y - 1) sum++;
    }
    return sum;
}

// Calls of a function of its own, whose code follows.
static __attribute__((section("p.calls"), noinline)) u64 mix_in(u64 h, u64 x);
PROG(calls) {
    u64 h = 1;
    for (u32 i = 0; i < 2048; i += 8) h = mix_in(h, *(u64 *)(mem + i));
    return h;
}
static u64 mix_in(u64 h, u64 x) {
    h ^= x * 0x9fb21c651e98df25;
    return (h << 29 | h >> 35) + x;
}

// The least number, the greatest, and where the greatest stands.
PROG(extremes) {
    u32 *a = (u32 *)mem, least = a[0], most = a[0], at = 0;
    for (u32 i = 1; i < 512; i++) { if (a[i] < least) least = a[i]; if (a[i] > most) most = a[i]; }
    for (u32 i = 1; i < 512; i++) if (a[i] > a[at]) at = i;
    return (u64)most << 32 ^ least ^ at;
}

PROG(djb2) {
    u32 h = 5381;
    for (u32 i = 0; i < 2048; i++) h = h * 33 + mem[i];
    return h;
}

static inline __attribute__((always_inline)) u8 hex_digit(u8 v) { return v < 10 ? v + '0' : v - 10 + 'a'; }

PROG(hex_encode) {
    u8 *out = mem + 2048;
    for (u32 i = 0; i < 1000; i++) { out[2 * i] = hex_digit(mem[i] >> 4); out[2 * i + 1] = hex_digit(mem[i] & 15); }
    return *(u64 *)(mem + 2048) ^ *(u64 *)(mem + 4040);
}

PROG(histogram) {
    u32 *count = (u32 *)(mem + 2048), most = 0;
    for (u32 i = 0; i < 256; i++) count[i] = 0;
    for (u32 i = 0; i < 2048; i++) count[mem[i]]++;
    for (u32 i = 0; i < 256; i++) if (count[i] > most) most = count[i];
    return most;
}

// Square roots, bit by bit.
PROG(square_roots) {
    u64 sum = 0;
    for (u32 i = 0; i < 512; i += 4) {
        u32 x = *(u32 *)(mem + i), root = 0;
        for (u32 bit = 1u << 30; bit; bit >>= 2) {
            if (x >= root + bit) { x -= root + bit; root = (root >> 1) + bit; } else root >>= 1;
        }
        sum += root;
    }
    return sum;
}

PROG(count_bytes) {
    u64 count = 0;
    for (u32 i = 0; i < 2048; i++) count += mem[i] == 'x';
    return count;
}
