/* Tokens of JSON documents: where they end, and numbers as doubles, correctly rounded. Needs Python.h for what is seldom. */
#ifndef TOCSIN_JSON_TOKENS_H
#define TOCSIN_JSON_TOKENS_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LONGEST 63 /* characters of a number that is converted by Python */

static const double TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

#ifdef __SIZEOF_INT128__
/* digits / 10^places, rounded to the nearest double, to the even one of two: `digits` is not 0, `places` at most 19. The
 * quotient has at least 64 bits, and its remainder says whether anything follows them. */
static double divided(uint64_t digits, int places) {
    uint64_t divisor = (uint64_t)TENS[places];
    int shift = 64 + __builtin_clzll(digits);
    unsigned __int128 dividend = (unsigned __int128)digits << shift, quotient = dividend / divisor;
    int rest = dividend % divisor != 0;
    uint64_t high = (uint64_t)(quotient >> 64);
    int drop = (high ? 128 - __builtin_clzll(high) : 64 - __builtin_clzll((uint64_t)quotient)) - 53;
    uint64_t kept = (uint64_t)(quotient >> drop);
    unsigned __int128 dropped = quotient - ((unsigned __int128)kept << drop), half = (unsigned __int128)1 << (drop - 1);
    if (dropped > half || (dropped == half && (rest || kept & 1))) kept++;
    return ldexp((double)kept, drop - shift);
}
#endif

static inline int is_digit(const char *at, const char *end) { return at < end && (unsigned)(*at - '0') < 10; }

/* Behind a number that nobody reads; NULL where there is none. */
static const char *behind_unread_number(const char *at, const char *end) {
    at += at < end && *at == '-';
    if (!is_digit(at, end)) return NULL;
    if (*at++ != '0')
        while (is_digit(at, end)) at++;
    if (at < end && *at == '.') {
        if (!is_digit(++at, end)) return NULL;
        while (is_digit(at, end)) at++;
    }
    if (at < end && (*at | 0x20) == 'e') {
        at++;
        at += at < end && (*at == '-' || *at == '+');
        if (!is_digit(at, end)) return NULL;
        while (is_digit(at, end)) at++;
    }
    return at;
}

/* Behind a number, with its value; NULL where there is none, or one that is too long or too large. */
static const char *behind_number(const char *from, const char *end, double *value) {
    const char *at = from;
    uint64_t digits = 0;
    int count = 0, places = 0, exponent = 0;
    int negative = at < end && *at == '-';
    at += negative;
    if (at >= end || *at < '0' || *at > '9') return NULL;
    if (*at == '0') {
        at++;
    } else {
        for (; at < end && *at >= '0' && *at <= '9'; at++, count++)
            if (count < 19) digits = 10 * digits + (uint64_t)(*at - '0');
    }
    if (at < end && *at == '.') {
        const char *first = ++at;
        for (; at < end && *at >= '0' && *at <= '9'; at++, places++) {
            if (count < 19) digits = 10 * digits + (uint64_t)(*at - '0');
            count += digits != 0;
        }
        if (at == first) return NULL;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        int minus = ++at < end && *at == '-';
        at += minus || (at < end && *at == '+');
        const char *first = at;
        for (; at < end && *at >= '0' && *at <= '9'; at++)
            if (exponent < 10000) exponent = 10 * exponent + (*at - '0');
        if (at == first) return NULL;
        if (minus) exponent = -exponent;
    }
    exponent -= places;
    if (count <= 19 && digits < ((uint64_t)1 << 53) && exponent >= -22 && exponent <= 22) {
        *value = exponent < 0 ? (double)digits / TENS[-exponent] : (double)digits * TENS[exponent];
#ifdef __SIZEOF_INT128__
    } else if (count <= 19 && digits && exponent < 0 && exponent >= -19) {
        *value = divided(digits, -exponent);
#endif
    } else { /* seldom */
        char copy[LONGEST + 1];
        if (at - from > LONGEST) return NULL;
        memcpy(copy, from, (size_t)(at - from));
        copy[at - from] = 0;
        *value = PyOS_string_to_double(copy, NULL, NULL);
        if (PyErr_Occurred()) PyErr_Clear(), *value = INFINITY;
        return fabs(*value) < INFINITY ? at : NULL;
    }
    if (negative) *value = -*value;
    return at;
}

static inline const char *spaces_skipped(const char *at, const char *end) {
    while (at < end && (unsigned char)*at <= ' ' && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    return at;
}

/* Which bytes end a run of a string's ordinary characters. */
static const unsigned char SPECIAL[256] = {
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    ['"'] = 1, ['\\'] = 1};

/* Behind a string whose first quote is before `at`; NULL where it is none. Notes whether it has escapes. */
static const char *behind_string(const char *at, const char *end, int *escapes) {
    while (at < end) {
        while (at < end && !SPECIAL[(unsigned char)*at]) at++;
        if (at >= end) return NULL;
        unsigned char c = (unsigned char)*at++;
        if (c == '"') return at;
        if (c < 0x20) return NULL;
        if (c != '\\') continue;
        *escapes = 1;
        if (at >= end) return NULL;
        c = (unsigned char)*at++;
        if (c == 'u') {
            if (end - at < 4) return NULL;
            for (int i = 0; i < 4; i++, at++)
                if (!((*at >= '0' && *at <= '9') || (*at >= 'a' && *at <= 'f') || (*at >= 'A' && *at <= 'F'))) return NULL;
        } else if (!c || !strchr("\"\\/bfnrt", c)) {
            return NULL;
        }
    }
    return NULL;
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c; }

/* Whether a value is more than null, false or an empty text, array or object. */
static int is_filled(const char *from, Py_ssize_t size) {
    if (size == 2) return memcmp(from, "\"\"", 2) && memcmp(from, "[]", 2) && memcmp(from, "{}", 2);
    return !(size == 4 && !memcmp(from, "null", 4)) && !(size == 5 && !memcmp(from, "false", 5));
}
#endif
