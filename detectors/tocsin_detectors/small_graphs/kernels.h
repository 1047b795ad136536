/* The arithmetic of steps on doubles: no Python, and no memory of its own. */
#ifndef TOCSIN_KERNELS_H
#define TOCSIN_KERNELS_H
#include <math.h>
#include <stdint.h>

#include "products.h"

enum unary {
    COPY, NEG, ABS, LOG, EXP, SQRT, ROUND, FLOOR, RELU, NOT, SIGMOID, TO_INTEGER, TO_BOOL, IS_INF, RECIPROCAL,
    IS_POSITIVE_INF, IS_NEGATIVE_INF, UNARIES
};
enum binary { ADD, SUB, MUL, DIV, POW, MAX, MIN, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, EQUAL, AND, OR, BINARIES };
enum reduce { SUM, MEAN, LARGEST, LEAST, SUM_SQUARE, L1, L2, LOG_SUM_EXP, ARG_MAX, ARG_MIN, REDUCTIONS };

FAST static inline double larger(double a, double b) { return a != a || a > b ? a : b; }
FAST static inline double smaller(double a, double b) { return a != a || a < b ? a : b; }

FAST static void unary(int kind, int64_t n, const double *a, int sa, double *out) {
#define EACH(value)                                                                                                    \
    for (int64_t i = 0; sa && i < n; i++) {                                                                            \
        double x = a[i];                                                                                               \
        out[i] = value;                                                                                                \
    }                                                                                                                  \
    for (int64_t i = 0; !sa && i < n; i++) {                                                                           \
        double x = a[0];                                                                                               \
        out[i] = value;                                                                                                \
    }                                                                                                                  \
    break;
    switch (kind) {
    case COPY: EACH(x)
    case NEG: EACH(-x)
    case ABS: EACH(fabs(x))
    case LOG: EACH(log(x))
    case EXP: EACH(exp(x))
    case SQRT: EACH(sqrt(x))
    case ROUND: EACH(rint(x))
    case FLOOR: EACH(floor(x))
    case RELU: EACH(x <= 0 ? 0 : x)
    case NOT: EACH(x == 0)
    case SIGMOID: EACH(x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)))
    case TO_INTEGER: EACH(trunc(x))
    case TO_BOOL: EACH(x != 0)
    case IS_INF: EACH(fabs(x) == INFINITY)
    case RECIPROCAL: EACH(1 / x)
    case IS_POSITIVE_INF: EACH(x == INFINITY)
    case IS_NEGATIVE_INF: EACH(x == -INFINITY)
    }
#undef EACH
}

FAST static void binary(int kind, int64_t n, const double *a, int sa, const double *b, int sb, double *out) {
#define EACH(value)                                                                                                    \
    for (int64_t i = 0; adjacent && i < n; i++) {                                                                      \
        double x = a[i], y = b[i];                                                                                     \
        out[i] = value;                                                                                                \
    }                                                                                                                  \
    for (int64_t i = 0; !adjacent && i < n; i++) {                                                                     \
        double x = a[i * sa], y = b[i * sb];                                                                           \
        out[i] = value;                                                                                                \
    }                                                                                                                  \
    break;
    const int adjacent = sa && sb;
    switch (kind) {
    case ADD: EACH(x + y)
    case SUB: EACH(x - y)
    case MUL: EACH(x * y)
    case DIV: EACH(x / y)
    case POW: EACH(y == 2 ? x * x : pow(x, y))
    case MAX: EACH(y != y ? y : larger(x, y))
    case MIN: EACH(y != y ? y : smaller(x, y))
    case LESS: EACH(x < y)
    case LESS_EQUAL: EACH(x <= y)
    case GREATER: EACH(x > y)
    case GREATER_EQUAL: EACH(x >= y)
    case EQUAL: EACH(x == y)
    case AND: EACH(x != 0 && y != 0)
    case OR: EACH(x != 0 || y != 0)
    }
#undef EACH
}

FAST static double extreme(int64_t n, const double *a) {
    double most = a[0];
    for (int64_t i = 1; i < n; i++) most = a[i] != a[i] ? a[i] : larger(most, a[i]);
    return most;
}

FAST static double reduced(int kind, int64_t n, const double *a) {
    double sum = 0, most = a[0];
    int64_t at = 0;
    switch (kind) {
    case SUM:
    case MEAN:
        for (int64_t i = 0; i < n; i++) sum += a[i];
        return kind == MEAN ? sum / (double)n : sum;
    case LARGEST: return extreme(n, a);
    case LEAST:
        for (int64_t i = 1; i < n; i++) most = a[i] != a[i] ? a[i] : smaller(most, a[i]);
        return most;
    case SUM_SQUARE:
    case L2:
        for (int64_t i = 0; i < n; i++) sum += a[i] * a[i];
        return kind == L2 ? sqrt(sum) : sum;
    case L1:
        for (int64_t i = 0; i < n; i++) sum += fabs(a[i]);
        return sum;
    case LOG_SUM_EXP:
        most = extreme(n, a);
        if (fabs(most) == INFINITY) most = 0;
        for (int64_t i = 0; i < n; i++) sum += exp(a[i] - most);
        return log(sum) + most;
    case ARG_MAX:
        for (int64_t i = 1; i < n; i++)
            if (a[i] > a[at]) at = i;
        return (double)at;
    case ARG_MIN:
        for (int64_t i = 1; i < n; i++)
            if (a[i] < a[at]) at = i;
        return (double)at;
    }
    return NAN;
}

/* The `many` largest (or least) of n values and their places, the first of equal ones first. */
FAST static void top_k(int64_t n, int64_t many, int largest, const double *a, double *values, double *indices) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = a[i];
        if (kept == many && !(largest ? x > values[kept - 1] : x < values[kept - 1])) continue;
        int64_t at = kept < many ? kept++ : kept - 1;
        while (at > 0 && (largest ? x > values[at - 1] : x < values[at - 1])) {
            values[at] = values[at - 1];
            indices[at] = indices[at - 1];
            at--;
        }
        values[at] = x;
        indices[at] = (double)i;
    }
}

#endif
