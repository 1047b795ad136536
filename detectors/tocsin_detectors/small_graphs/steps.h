/* What a plan is made of: its arrays, its steps, and what makes a step one that cannot be performed. */
#ifndef TOCSIN_STEPS_H
#define TOCSIN_STEPS_H
#include <Python.h>

#include "kernels.h"

#define MOST 4194304 /* values in any array, and multiplications of a step */
#define MOST_ROWS 65536 /* of one run */
#define MOST_ABREAST 16384 /* places of an arena of which there is one for each of several rows */

enum operation { UNARY, BINARY, WHERE, REDUCE, SOFTMAX, PRODUCT, GEMM, TOP_K, CUMULATE, OPERATIONS };
enum form { FULL, REPEATED, TABLE };

typedef struct {
    int32_t operation, kind, rounds, out, form[3], place[3], size[4];
} Step;

typedef struct {
    int64_t operand[3], out; /* how many values each has */
} Sizes;

typedef struct {
    PyObject_HEAD
    double *arenas, *scratch; /* arenas: one for each row that is evaluated abreast of others */
    float *weights, *narrow;  /* narrow: for the rows of a product, what is multiplied and what comes of it */
    int32_t *tables, *inputs, *outputs; /* inputs: place, width, whether -inf is a value; outputs: places */
    Step *steps;
    Sizes *sizes; /* of each step */
    Multiply multiply;
    Py_ssize_t places, constants, n_weights, n_tables, n_inputs, n_outputs, n_steps, abreast;
    int64_t n_scratch, n_narrow;
} Plan;

/* How many values an operand of a step has, and how many the step gives; -1 where its sizes make no sense. */
static int64_t operand_size(const Step *s, int which, int64_t *out) {
    const int32_t *z = s->size;
    int64_t sizes[3] = {0, 0, 0};
    for (int i = 0; i < 4; i++)
        if (z[i] < 0 || z[i] > MOST) return -1;
    switch (s->operation) {
    case UNARY:
    case BINARY:
    case WHERE:
        *out = sizes[0] = z[0];
        sizes[1] = s->operation == UNARY ? 0 : z[0];
        sizes[2] = s->operation == WHERE ? z[0] : 0;
        break;
    case REDUCE: /* outer, reduced */
        *out = z[0];
        sizes[0] = (int64_t)z[0] * z[1];
        if (z[1] < 1) return -1;
        break;
    case SOFTMAX:
    case CUMULATE:
        *out = sizes[0] = (int64_t)z[0] * z[1];
        if (z[1] < 1) return -1;
        break;
    case PRODUCT: /* matrices, rows, inner, columns */
    case GEMM:    /* rows, inner, columns, whether there is a bias; weights at place[1], the bias at place[2] */
        if (s->operation == GEMM) {
            if (z[1] < 1 || (int64_t)z[0] * z[1] > MOST || (int64_t)z[0] * z[1] * z[2] > MOST) return -1;
            sizes[0] = (int64_t)z[0] * z[1];
            *out = (int64_t)z[0] * z[2];
            break;
        }
        if ((int64_t)z[0] * z[1] > MOST || (int64_t)z[2] * z[3] > MOST) return -1;
        if ((int64_t)z[0] * z[1] * z[2] > MOST || (int64_t)z[0] * z[2] * z[3] > MOST) return -1;
        if ((int64_t)z[0] * z[1] * z[3] > MOST || z[2] < 1) return -1;
        if ((int64_t)z[0] * z[1] * z[3] * z[2] > MOST) return -1;
        sizes[0] = (int64_t)z[0] * z[1] * z[2];
        sizes[1] = (int64_t)z[0] * z[2] * z[3];
        *out = (int64_t)z[0] * z[1] * z[3];
        break;
    case TOP_K: /* outer, values, how many; all values come before all places */
        if (z[2] < 1 || z[2] > z[1] || (int64_t)z[1] * z[2] > MOST) return -1;
        sizes[0] = (int64_t)z[0] * z[1];
        *out = 2 * (int64_t)z[0] * z[2];
        break;
    default: return -1;
    }
    for (int i = 0; i < 3; i++)
        if (sizes[i] > MOST) return -1;
    return *out > MOST ? -1 : sizes[which];
}

/* What is wrong with a step; NULL when nothing is. Notes its sizes, and how much memory it takes beside the arena. */
static const char *fault(Plan *p, const Step *s, Sizes *sizes) {
    static const int kinds[OPERATIONS] = {UNARIES, BINARIES, 1, REDUCTIONS, 1, 1, 1, 2, 4};
    if (s->operation < 0 || s->operation >= OPERATIONS) return "an operation is unknown";
    if (s->kind < 0 || s->kind >= kinds[s->operation]) return "a kind of an operation is unknown";
    int64_t out = 0, together = 0;
    for (int i = 0; i < 3; i++) {
        int64_t size = operand_size(s, i, &out), place = s->place[i];
        if (size < 0) return "sizes are out of range";
        if (s->operation == GEMM && i) continue;
        sizes->operand[i] = size;
        if (!size) continue;
        if (place < 0) return "an operand's place is negative";
        if (s->form[i] == FULL ? place + size > p->places : s->form[i] == REPEATED ? place >= p->places
            : s->form[i] != TABLE || place + size > p->n_tables)
            return "an operand lies outside";
        if (s->form[i] == REPEATED && s->operation > WHERE && size > 1) return "an operand repeats where it cannot";
        if (s->form[i] == TABLE) together += size;
    }
    if (s->out < p->constants || s->out + out > p->places) return "a result lies outside";
    if (s->operation == GEMM) {
        int64_t weights = (int64_t)s->size[1] * s->size[2];
        if (s->place[1] < 0 || s->place[1] + weights > p->n_weights) return "weights lie outside";
        if (s->size[3] && (s->place[2] < 0 || (int64_t)s->place[2] + s->size[2] > p->n_weights))
            return "a bias lies outside";
        int64_t narrow = ABREAST * ((int64_t)s->size[1] + s->size[2]);
        if (narrow > p->n_narrow) p->n_narrow = narrow;
    }
    if (together > p->n_scratch) p->n_scratch = together;
    sizes->out = out;
    return NULL;
}

#endif
