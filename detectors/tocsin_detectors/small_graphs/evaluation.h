/* Evaluates the steps of a plan on rows: no Python, and no memory but the plan's. */
#ifndef TOCSIN_EVALUATION_H
#define TOCSIN_EVALUATION_H
#include "steps.h"

/* A step that multiplies with weights, for several rows at once: a large matrix is read once for all of them. */
FAST static void multiply(const Plan *p, const Step *s, Py_ssize_t rows) {
    const int32_t each = s->size[0], K = s->size[1], N = s->size[2];
    const float *weights = p->weights + s->place[1], *bias = s->size[3] ? p->weights + s->place[2] : NULL;
    float *x = p->narrow, *y = p->narrow + (int64_t)ABREAST * K;
    for (int64_t first = 0, many; first < rows * each; first += many) {
        many = rows * each - first < ABREAST ? rows * each - first : ABREAST;
        for (int64_t i = 0; i < many; i++) {
            const double *arena = p->arenas + (first + i) / each * p->places;
            int64_t from = (first + i) % each * K;
            from += s->place[0];
            if (s->form[0] == TABLE)
                for (int32_t k = 0; k < K; k++) x[i * K + k] = (float)arena[p->tables[from + k]];
            else
                for (int32_t k = 0; k < K; k++) x[i * K + k] = (float)arena[from + k];
        }
        p->multiply((int32_t)many, K, N, x, weights, bias, y);
        for (int64_t i = 0; i < many; i++) {
            double *out = p->arenas + (first + i) / each * p->places + s->out + (first + i) % each * N;
            for (int32_t n = 0; n < N; n++) out[n] = y[i * N + n];
        }
    }
}

/* Any other step, for the row whose arena that is. */
FAST static void perform(const Plan *p, const Step *s, const Sizes *sizes, double *arena) {
    const double *operand[3];
    int stride[3];
    double *scratch = p->scratch, *out = arena + s->out;
    for (int i = 0; i < 3; i++) {
        int64_t size = sizes->operand[i];
        operand[i] = arena;
        stride[i] = s->form[i] != REPEATED;
        if (!size) continue;
        if (s->form[i] != TABLE) {
            operand[i] = arena + s->place[i];
            continue;
        }
        const int32_t *table = p->tables + s->place[i];
        for (int64_t j = 0; j < size; j++) scratch[j] = arena[table[j]];
        operand[i] = scratch;
        scratch += size;
    }
    const double *a = operand[0], *b = operand[1], *c = operand[2];
    const int32_t *z = s->size;
    switch (s->operation) {
    case UNARY: unary(s->kind, z[0], a, stride[0], out); break;
    case BINARY: binary(s->kind, z[0], a, stride[0], b, stride[1], out); break;
    case WHERE:
        for (int64_t i = 0; i < z[0]; i++) out[i] = a[i * stride[0]] != 0 ? b[i * stride[1]] : c[i * stride[2]];
        break;
    case REDUCE:
        for (int64_t i = 0; i < z[0]; i++) out[i] = reduced(s->kind, z[1], a + i * z[1]);
        break;
    case SOFTMAX:
        for (int64_t i = 0; i < z[0]; i++) {
            const double *row = a + i * z[1];
            double most = extreme(z[1], row), sum = 0;
            for (int64_t j = 0; j < z[1]; j++) sum += out[i * z[1] + j] = exp(row[j] - most);
            for (int64_t j = 0; j < z[1]; j++) out[i * z[1] + j] /= sum;
        }
        break;
    case PRODUCT:
        for (int64_t m = 0; m < z[0]; m++)
            for (int64_t i = 0; i < z[1]; i++) {
                const double *row = a + (m * z[1] + i) * z[2], *columns = b + m * z[2] * z[3];
                double *sums = out + (m * z[1] + i) * z[3];
                for (int64_t j = 0; j < z[3]; j++) sums[j] = 0;
                for (int64_t k = 0; k < z[2]; k++)
                    for (int64_t j = 0; j < z[3]; j++) sums[j] += row[k] * columns[k * z[3] + j];
            }
        break;
    case TOP_K:
        for (int64_t i = 0; i < z[0]; i++)
            top_k(z[1], z[2], s->kind, a + i * z[1], out + i * z[2], out + (z[0] + i) * z[2]);
        break;
    case CUMULATE: /* kind: 1 exclusive, 2 from the end */
        for (int64_t i = 0; i < z[0]; i++) {
            double sum = 0;
            for (int64_t j = 0; j < z[1]; j++) {
                int64_t at = i * z[1] + (s->kind & 2 ? z[1] - 1 - j : j);
                double x = a[at];
                out[at] = s->kind & 1 ? sum : sum + x;
                sum += x;
            }
        }
        break;
    }
    if (s->rounds)
        for (int64_t i = 0; i < sizes->out; i++) out[i] = (float)out[i];
}

/* Put the values of a row where its arena has inputs; 0 where ONNX Runtime has to say what one of them means. `from`:
 * where the float32 values of each input begin. */
FAST static int given(const Plan *p, const char *const *from, double *arena) {
    int strange = 0;
    for (Py_ssize_t i = 0; i < p->n_inputs; i++) {
        int32_t width = p->inputs[3 * i + 1], masked = p->inputs[3 * i + 2];
        double *to = arena + p->inputs[3 * i];
        for (int32_t j = 0; j < width; j++) {
            float x;
            memcpy(&x, from[i] + (int64_t)j * 4, 4);
            strange |= !(fabsf(x) < INFINITY) && !(masked && x == -INFINITY);
            to[j] = x;
        }
    }
    return !strange;
}

/* Evaluate rows; 0 where a value or a score is not finite and ONNX Runtime has to say what that means. `from`: where
 * the values begin, of each row's inputs. */
FAST static int evaluated(const Plan *p, Py_ssize_t rows, const char *const *from, float *scores) {
    int finite = 1;
    for (Py_ssize_t first = 0, many; first < rows; first += many) {
        many = rows - first < p->abreast ? rows - first : p->abreast;
        for (Py_ssize_t i = 0; i < many; i++)
            if (!given(p, from + (first + i) * p->n_inputs, p->arenas + i * p->places)) return 0;
        for (Py_ssize_t step = 0; step < p->n_steps; step++) {
            const Step *s = &p->steps[step];
            if (s->operation == GEMM) multiply(p, s, many);
            else
                for (Py_ssize_t i = 0; i < many; i++) perform(p, s, &p->sizes[step], p->arenas + i * p->places);
        }
        for (Py_ssize_t i = 0; i < many; i++)
            for (Py_ssize_t j = 0; j < p->n_outputs; j++) {
                float score = (float)p->arenas[i * p->places + p->outputs[j]];
                finite &= fabsf(score) < INFINITY;
                scores[(first + i) * p->n_outputs + j] = score;
            }
    }
    return finite;
}

#endif
