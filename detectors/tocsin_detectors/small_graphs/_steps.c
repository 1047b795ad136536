/* Evaluates a list of steps on a few rows: the native half of tocsin_detectors.small_graphs.
 *
 * planner.py turns a graph into steps over one array of doubles, the arena: constants first, then the inputs of a row,
 * then what steps compute. A float32 value is a double that float32 can represent. Steps are records of 14 int32:
 *
 *     operation, kind, rounds, out, the forms of three operands, their places, four sizes
 *
 * An operand is adjacent values that begin at a place (FULL), one value that repeats (REPEATED), or the values whose places
 * stand in `tables` from a place on (TABLE). Every size, place and table entry is checked once, when a Plan is made:
 * run() then stays within its arrays whatever the input is. run() holds the interpreter's lock and calls no Python
 * between taking its buffers and giving them back, so threads may share a Plan.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kernels.h"

#define MOST 4194304 /* values in any array, and multiplications of a step */

enum operation { UNARY, BINARY, WHERE, REDUCE, SOFTMAX, PRODUCT, GEMM, TOP_K, CUMULATE, OPERATIONS };
enum form { FULL, REPEATED, TABLE };

typedef struct {
    int32_t operation, kind, rounds, out, form[3], place[3], size[4];
} Step;

typedef struct {
    PyObject_HEAD
    double *arena, *scratch;
    float *weights, *narrow;
    int32_t *tables, *inputs, *outputs; /* inputs: place, width, whether -inf is a value; outputs: places */
    Step *steps;
    Py_ssize_t places, constants, n_weights, n_tables, n_inputs, n_outputs, n_steps;
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

/* What is wrong with a step; NULL when nothing is. Notes how much scratch memory it takes. */
static const char *fault(Plan *p, const Step *s) {
    static const int kinds[OPERATIONS] = {UNARIES, BINARIES, 1, REDUCTIONS, 1, 1, 1, 2, 4};
    if (s->operation < 0 || s->operation >= OPERATIONS) return "an operation is unknown";
    if (s->kind < 0 || s->kind >= kinds[s->operation]) return "a kind of an operation is unknown";
    int64_t out = 0, together = 0;
    for (int i = 0; i < 3; i++) {
        int64_t size = operand_size(s, i, &out), place = s->place[i];
        if (size < 0) return "sizes are out of range";
        if (s->operation == GEMM && i) continue;
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
        if ((int64_t)s->size[1] + s->size[2] > p->n_narrow) p->n_narrow = (int64_t)s->size[1] + s->size[2];
    }
    if (together > p->n_scratch) p->n_scratch = together;
    return NULL;
}

static void perform(const Plan *p, const Step *s) {
    const double *operand[3];
    int stride[3];
    int64_t out_size = 0;
    double *scratch = p->scratch, *out = p->arena + s->out;
    for (int i = 0; i < 3; i++) {
        int64_t size = s->operation == GEMM && i ? 0 : operand_size(s, i, &out_size);
        operand[i] = p->arena;
        stride[i] = s->form[i] != REPEATED;
        if (!size) continue;
        if (s->form[i] != TABLE) {
            operand[i] = p->arena + s->place[i];
            continue;
        }
        const int32_t *table = p->tables + s->place[i];
        for (int64_t j = 0; j < size; j++) scratch[j] = p->arena[table[j]];
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
    case GEMM: {
        float *x = p->narrow, *y = p->narrow + z[1];
        const float *bias = z[3] ? p->weights + s->place[2] : NULL;
        for (int64_t m = 0; m < z[0]; m++) {
            for (int64_t k = 0; k < z[1]; k++) x[k] = (float)a[m * z[1] + k];
            multiply(z[1], z[2], x, p->weights + s->place[1], bias, y);
            for (int64_t n = 0; n < z[2]; n++) out[m * z[2] + n] = y[n];
        }
        break;
    }
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
        for (int64_t i = 0; i < out_size; i++) out[i] = (float)out[i];
}

/* A copy of a bytes object's values, of so many bytes each; NULL with an exception set. */
static void *copied(PyObject *bytes, Py_ssize_t each, Py_ssize_t *count) {
    char *content;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(bytes, &content, &size) < 0) return NULL;
    if (size % each || size / each > MOST) {
        PyErr_SetString(PyExc_ValueError, "a plan's array has a wrong size");
        return NULL;
    }
    void *memory = PyMem_Malloc(size ? (size_t)size : 1);
    if (!memory) return PyErr_NoMemory();
    memcpy(memory, content, (size_t)size);
    *count = size / each;
    return memory;
}

static void plan_dealloc(Plan *p) {
    PyTypeObject *type = Py_TYPE((PyObject *)p);
    PyMem_Free(p->arena);
    PyMem_Free(p->scratch);
    PyMem_Free(p->weights);
    PyMem_Free(p->narrow);
    PyMem_Free(p->tables);
    PyMem_Free(p->inputs);
    PyMem_Free(p->outputs);
    PyMem_Free(p->steps);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(p);
    Py_DECREF(type);
}

static int plan_filled(Plan *p, PyObject *constants, PyObject *weights, PyObject *tables, PyObject *steps,
                       PyObject *inputs, PyObject *outputs) {
    double *first = copied(constants, sizeof(double), &p->constants);
    if (!first) return -1;
    p->arena = PyMem_Calloc((size_t)p->places + 1, sizeof(double));
    if (p->arena && p->constants <= p->places) memcpy(p->arena, first, (size_t)p->constants * sizeof(double));
    PyMem_Free(first);
    if (!p->arena) return PyErr_NoMemory(), -1;
    Py_ssize_t n_inputs = 0;
    if (!(p->weights = copied(weights, sizeof(float), &p->n_weights))) return -1;
    if (!(p->tables = copied(tables, sizeof(int32_t), &p->n_tables))) return -1;
    if (!(p->steps = copied(steps, sizeof(Step), &p->n_steps))) return -1;
    if (!(p->inputs = copied(inputs, 3 * sizeof(int32_t), &n_inputs))) return -1;
    p->n_inputs = n_inputs;
    if (!(p->outputs = copied(outputs, sizeof(int32_t), &p->n_outputs))) return -1;
    const char *problem = p->constants > p->places || p->n_inputs > 64 ? "arrays do not fit" : NULL;
    for (Py_ssize_t i = 0; !problem && i < p->n_tables; i++)
        if (p->tables[i] < 0 || p->tables[i] >= p->places) problem = "a table points outside";
    for (Py_ssize_t i = 0; !problem && i < p->n_outputs; i++)
        if (p->outputs[i] < 0 || p->outputs[i] >= p->places) problem = "an output lies outside";
    for (Py_ssize_t i = 0; !problem && i < p->n_inputs; i++) {
        int64_t place = p->inputs[3 * i], width = p->inputs[3 * i + 1];
        if (place < p->constants || width < 1 || place + width > p->places) problem = "an input lies outside";
    }
    for (Py_ssize_t i = 0; !problem && i < p->n_steps; i++) problem = fault(p, &p->steps[i]);
    if (problem) return PyErr_Format(PyExc_ValueError, "a plan cannot be run: %s", problem), -1;
    p->scratch = PyMem_Calloc((size_t)p->n_scratch + 1, sizeof(double));
    p->narrow = PyMem_Calloc((size_t)p->n_narrow + 1, sizeof(float));
    if (!p->scratch || !p->narrow) return PyErr_NoMemory(), -1;
    return 0;
}

static PyObject *plan_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *constants, *weights, *tables, *steps, *inputs, *outputs;
    Py_ssize_t places;
    (void)keywords;
    if (!PyArg_ParseTuple(args, "nSSSSSS", &places, &constants, &weights, &tables, &steps, &inputs, &outputs))
        return NULL;
    if (places < 0 || places > MOST) {
        PyErr_SetString(PyExc_ValueError, "a plan's arena has a wrong size");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Plan *p = (Plan *)allocate(type, 0); /* zeroed */
    if (!p) return NULL;
    p->places = places;
    if (plan_filled(p, constants, weights, tables, steps, inputs, outputs) < 0) {
        Py_DECREF(p);
        return NULL;
    }
    return (PyObject *)p;
}

/* Evaluate rows; 0 where a value or a score is not finite and ONNX Runtime has to say what that means. */
static int evaluated(Plan *p, Py_ssize_t rows, Py_buffer *buffers) {
    float *scores = buffers[p->n_inputs].buf;
    int finite = 1;
    for (Py_ssize_t row = 0; row < rows; row++) {
        for (Py_ssize_t i = 0; i < p->n_inputs; i++) {
            int32_t width = p->inputs[3 * i + 1], masked = p->inputs[3 * i + 2], strange = 0;
            const float *values = (const float *)buffers[i].buf + (int64_t)row * width;
            double *to = p->arena + p->inputs[3 * i];
            for (int32_t j = 0; j < width; j++) {
                float x = values[j];
                strange |= !(fabsf(x) < INFINITY) && !(masked && x == -INFINITY);
                to[j] = x;
            }
            if (strange) return 0;
        }
        for (Py_ssize_t i = 0; i < p->n_steps; i++) perform(p, &p->steps[i]);
        for (Py_ssize_t i = 0; i < p->n_outputs; i++) {
            float score = (float)p->arena[p->outputs[i]];
            finite &= fabsf(score) < INFINITY;
            scores[(int64_t)row * p->n_outputs + i] = score;
        }
    }
    return finite;
}

PyDoc_STRVAR(run_doc, "run(rows, inputs, scores)\n--\n\n"
    "Write the scores of rows; False where ONNX Runtime has to: a value or a score is not finite. `inputs`: a tuple of\n"
    "float32 buffers, contiguous, of rows times an input's width. `scores`: a writable one, of rows times the outputs.");

static PyObject *plan_run(Plan *p, PyObject *args) {
    Py_ssize_t rows, held = 0;
    PyObject *inputs, *scores;
    Py_buffer buffers[65];
    if (!PyArg_ParseTuple(args, "nO!O", &rows, &PyTuple_Type, &inputs, &scores)) return NULL;
    if (PyTuple_Size(inputs) != p->n_inputs || rows < 0 || rows > MOST) {
        PyErr_SetString(PyExc_ValueError, "a plan takes one buffer for each of its inputs");
        return NULL;
    }
    int done = -1;
    for (; held <= p->n_inputs; held++) {
        int last = held == p->n_inputs;
        PyObject *from = last ? scores : PyTuple_GetItem(inputs, held);
        if (PyObject_GetBuffer(from, &buffers[held], last ? PyBUF_CONTIG | PyBUF_FORMAT : PyBUF_CONTIG_RO | PyBUF_FORMAT) < 0) goto end;
        int64_t width = last ? p->n_outputs : p->inputs[3 * held + 1];
        const char *format = buffers[held].format;
        if (buffers[held].len != (int64_t)rows * width * 4 || !format || strcmp(format, "f") ||
            (uintptr_t)buffers[held].buf % sizeof(float)) {
            held++;
            PyErr_Format(PyExc_ValueError, "a buffer has no float32 values for %zd rows of %lld", rows, (long long)width);
            goto end;
        }
    }
    done = evaluated(p, rows, buffers);
end:
    while (held-- > 0) PyBuffer_Release(&buffers[held]);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyMethodDef plan_methods[] = {
    {"run", (PyCFunction)plan_run, METH_VARARGS, run_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot plan_slots[] = {
    {Py_tp_doc, "Plan(places, constants, weights, tables, steps, inputs, outputs): arrays as bytes; raises ValueError."},
    {Py_tp_new, plan_new},
    {Py_tp_dealloc, plan_dealloc},
    {Py_tp_methods, plan_methods},
    {0, NULL},
};

static PyType_Spec plan_spec = {"tocsin_detectors.small_graphs._steps.Plan", sizeof(Plan), 0, Py_TPFLAGS_DEFAULT, plan_slots};

static int executed(PyObject *module) {
    PyObject *type = PyType_FromSpec(&plan_spec);
    if (!type) return -1;
    int failed = PyModule_AddObjectRef(module, "Plan", type);
    Py_DECREF(type);
    if (failed) return -1;
    return PyModule_AddIntConstant(module, "FUSES", fuses());
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, executed}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_steps", "Evaluates a list of steps on a few rows.", 0, NULL, module_slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__steps(void) { return PyModuleDef_Init(&module); }
