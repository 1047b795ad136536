/* Tokens of JSON documents: where they end, and numbers as doubles, correctly rounded. Needs Python.h for what is seldom.
 * A zero stands behind a document, as behind all bytes of Python: it is part of no token, so that nothing runs past it. */
#ifndef TOCSIN_JSON_TOKENS_H
#define TOCSIN_JSON_TOKENS_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define DEPTH 100  /* objects and arrays in each other */
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

static inline int is_digit(const char *at) { return (unsigned)(*at - '0') < 10; }

/* Behind a number that nobody reads; NULL where there is none. */
static const char *behind_unread_number(const char *at) {
    at += *at == '-';
    if (!is_digit(at)) return NULL;
    if (*at++ != '0')
        while (is_digit(at)) at++;
    if (*at == '.') {
        if (!is_digit(++at)) return NULL;
        while (is_digit(at)) at++;
    }
    if ((*at | 0x20) == 'e') {
        at++;
        at += *at == '-' || *at == '+';
        if (!is_digit(at)) return NULL;
        while (is_digit(at)) at++;
    }
    return at;
}

/* Behind a number, with its value; NULL where there is none, or one that is too long or too large. */
static const char *behind_number(const char *from, double *value) {
    const char *at = from;
    uint64_t digits = 0;
    int count = 0, places = 0, exponent = 0, is_integer = 1;
    int negative = *at == '-';
    at += negative;
    if (!is_digit(at)) return NULL;
    if (*at == '0') {
        at++;
    } else {
        for (; is_digit(at); at++, count++)
            if (count < 19) digits = 10 * digits + (uint64_t)(*at - '0');
    }
    if (*at == '.') {
        is_integer = 0;
        const char *first = ++at;
        for (; is_digit(at); at++, places++) {
            if (count < 19) digits = 10 * digits + (uint64_t)(*at - '0');
            count += digits != 0;
        }
        if (at == first) return NULL;
    }
    if ((*at | 0x20) == 'e') {
        is_integer = 0;
        int minus = *++at == '-';
        at += minus || *at == '+';
        const char *first = at;
        for (; is_digit(at); at++)
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
    if (negative && !(is_integer && !digits)) *value = -*value; /* an integer has no negative zero */
    return at;
}

static inline const char *spaces_skipped(const char *at) {
    while ((unsigned char)*at <= ' ' && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    return at;
}

/* Which bytes end a run of a string's ordinary characters. */
static const unsigned char SPECIAL[256] = {
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    ['"'] = 1, ['\\'] = 1};

static inline int is_hexadecimal(char c) { return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f'); }

/* Behind the characters of a string that are neither a quote nor a backslash nor a control character. */
static inline const char *behind_ordinary(const char *at, const char *end) {
#ifdef __SSE2__
    for (; end - at >= 16; at += 16) {
        __m128i some = _mm_loadu_si128((const __m128i *)at);
        __m128i special = _mm_or_si128(_mm_cmpeq_epi8(some, _mm_set1_epi8('"')), _mm_cmpeq_epi8(some, _mm_set1_epi8('\\')));
        special = _mm_or_si128(special, _mm_cmpeq_epi8(_mm_min_epu8(some, _mm_set1_epi8(0x1f)), some));
        int places = _mm_movemask_epi8(special);
        if (places) return at + __builtin_ctz((unsigned)places);
    }
#endif
    (void)end;
    while (!SPECIAL[(unsigned char)*at]) at++;
    return at;
}

/* Behind a string whose first quote is before `at`; NULL where it is none. Notes whether it has escapes. */
static const char *behind_string(const char *at, const char *end, int *escapes) {
    for (;;) {
        at = behind_ordinary(at, end);
        if (*at == '"') return at + 1;
        if (*at++ != '\\') return NULL;
        *escapes = 1;
        if (*at == 'u') {
            for (int i = 0; i < 4; i++)
                if (!is_hexadecimal(*++at)) return NULL;
        } else if (!*at || !strchr("\"\\/bfnrt", *at)) {
            return NULL;
        }
        at++;
    }
}

/* Behind one of JSON's words, such as null. */
static const char *behind_word(const char *at, const char *word) {
    size_t size = strlen(word);
    return strncmp(at, word, size) ? NULL : at + size;
}

/* Of an array or object whose bracket is at `at`: its first part, or behind it where `more` becomes 0. */
static inline const char *first(const char *at, char closing, int *more) {
    at = spaces_skipped(at + 1);
    *more = *at != closing;
    return *more ? at : at + 1;
}

/* The next part, or behind all of them where `more` becomes 0; NULL, and no more, where there is neither. */
static inline const char *next(const char *at, char closing, int *more) {
    at = spaces_skipped(at);
    *more = *at == ',';
    if (*more) return spaces_skipped(at + 1);
    return *at == closing ? at + 1 : NULL;
}

/* The value of a member whose name is at `at`; NULL where there is none. */
static inline const char *behind_name(const char *at, const char *end, const char **name, Py_ssize_t *size, int *escapes) {
    if (*at != '"') return NULL;
    *name = ++at;
    if (!(at = behind_string(at, end, escapes))) return NULL;
    *size = at - 1 - *name;
    at = spaces_skipped(at);
    return *at == ':' ? spaces_skipped(at + 1) : NULL;
}

/* Behind a value that nobody reads; NULL where there is none. `depth`: so many objects and arrays are around it. */
static const char *behind_unread(const char *at, const char *end, int depth) {
    const char *name;
    Py_ssize_t size;
    int more, escapes = 0;
    if (depth > DEPTH) return NULL;
    switch (*at) {
    case '"': return behind_string(at + 1, end, &escapes);
    case '{':
        for (at = first(at, '}', &more); more; at = next(at, '}', &more)) {
            if (!(at = behind_name(at, end, &name, &size, &escapes))) return NULL;
            if (!(at = behind_unread(at, end, depth + 1))) return NULL;
        }
        return at;
    case '[':
        for (at = first(at, ']', &more); more; at = next(at, ']', &more))
            if (!(at = behind_unread(at, end, depth + 1))) return NULL;
        return at;
    case 't': return behind_word(at, "true");
    case 'f': return behind_word(at, "false");
    case 'n': return behind_word(at, "null");
    default: return behind_unread_number(at);
    }
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c; }

/* Whether a value is more than null, false or an empty text, array or object. */
static int is_filled(const char *from, Py_ssize_t size) {
    if (size == 2) return memcmp(from, "\"\"", 2) && memcmp(from, "[]", 2) && memcmp(from, "{}", 2);
    return !(size == 4 && !memcmp(from, "null", 4)) && !(size == 5 && !memcmp(from, "false", 5));
}
#endif
