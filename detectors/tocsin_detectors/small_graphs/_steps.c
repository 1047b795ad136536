/* Evaluates a list of steps on a few rows: the native half of tocsin_detectors.small_graphs.
 *
 * planner.py turns a graph into steps over one array of doubles, the arena: constants first, then the inputs of a row,
 * then what steps compute. Of a small arena there are several, for rows that are evaluated abreast. A float32 value is a double that float32 can represent. Steps are records of 14 int32:
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

#include "evaluation.h"

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
    PyMem_Free(p->arenas);
    PyMem_Free(p->scratch);
    PyMem_Free(p->weights);
    PyMem_Free(p->narrow);
    PyMem_Free(p->tables);
    PyMem_Free(p->inputs);
    PyMem_Free(p->outputs);
    PyMem_Free(p->steps);
    PyMem_Free(p->sizes);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(p);
    Py_DECREF(type);
}

static int plan_filled(Plan *p, PyObject *constants, PyObject *weights, PyObject *tables, PyObject *steps,
                       PyObject *inputs, PyObject *outputs) {
    double *first = copied(constants, sizeof(double), &p->constants);
    if (!first) return -1;
    p->abreast = p->places > MOST_ABREAST ? 1 : ABREAST;
    p->arenas = PyMem_Calloc((size_t)(p->places * p->abreast) + 1, sizeof(double));
    for (Py_ssize_t i = 0; p->arenas && p->constants <= p->places && i < p->abreast; i++)
        memcpy(p->arenas + i * p->places, first, (size_t)p->constants * sizeof(double));
    PyMem_Free(first);
    if (!p->arenas) return PyErr_NoMemory(), -1;
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
    if (!(p->sizes = PyMem_Calloc((size_t)p->n_steps + 1, sizeof(Sizes)))) return PyErr_NoMemory(), -1;
    for (Py_ssize_t i = 0; !problem && i < p->n_steps; i++) problem = fault(p, &p->steps[i], &p->sizes[i]);
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
    if (!fuses()) {
        PyErr_SetString(PyExc_ValueError, "the processor has no fused multiply-add");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Plan *p = (Plan *)allocate(type, 0); /* zeroed */
    if (!p) return NULL;
    p->places = places;
    p->multiply = multiply_here();
    if (plan_filled(p, constants, weights, tables, steps, inputs, outputs) < 0) {
        Py_DECREF(p);
        return NULL;
    }
    return (PyObject *)p;
}

/* Room for where the values of each row's inputs begin, which whoever asks has to free; NULL with an exception set. */
static const char **places_of(const Plan *p, Py_ssize_t rows) {
    if (rows < 0 || rows > MOST_ROWS) {
        PyErr_SetString(PyExc_ValueError, "a plan evaluates so many rows at most");
        return NULL;
    }
    const char **from = PyMem_Calloc((size_t)(rows * p->n_inputs) + 1, sizeof(char *));
    if (!from) PyErr_NoMemory();
    return from;
}

/* Take the buffer of a float32 array that holds so many values; 0 with an exception set where it is none. */
static int taken(PyObject *array, Py_buffer *buffer, int64_t values, int flags) {
    if (PyObject_GetBuffer(array, buffer, flags | PyBUF_FORMAT) < 0) return 0;
    if (buffer->len == values * 4 && buffer->format && !strcmp(buffer->format, "f") &&
        (uintptr_t)buffer->buf % sizeof(float) == 0)
        return 1;
    PyErr_Format(PyExc_ValueError, "a buffer has no %lld float32 values", (long long)values);
    PyBuffer_Release(buffer);
    return 0;
}

PyDoc_STRVAR(run_doc, "run(rows, inputs, scores)\n--\n\n"
    "Write the scores of rows; False where ONNX Runtime has to: a value or a score is not finite. `inputs`: a tuple of\n"
    "float32 buffers, contiguous, of rows times an input's width. `scores`: a writable one, of rows times the outputs.");

static PyObject *plan_run(Plan *p, PyObject *args) {
    Py_ssize_t rows, held = 0;
    PyObject *inputs, *scores;
    Py_buffer buffers[64], written;
    if (!PyArg_ParseTuple(args, "nO!O", &rows, &PyTuple_Type, &inputs, &scores)) return NULL;
    if (PyTuple_Size(inputs) != p->n_inputs) {
        PyErr_SetString(PyExc_ValueError, "a plan takes one buffer for each of its inputs");
        return NULL;
    }
    const char **from = places_of(p, rows);
    if (!from) return NULL;
    int done = -1;
    for (; held < p->n_inputs; held++) {
        int64_t width = p->inputs[3 * held + 1];
        if (!taken(PyTuple_GetItem(inputs, held), &buffers[held], rows * width, PyBUF_CONTIG_RO)) goto end;
        for (Py_ssize_t row = 0; row < rows; row++)
            from[row * p->n_inputs + held] = (const char *)buffers[held].buf + row * width * 4;
    }
    if (!taken(scores, &written, (int64_t)rows * p->n_outputs, PyBUF_CONTIG)) goto end;
    done = evaluated(p, rows, from, written.buf);
    PyBuffer_Release(&written);
end:
    while (held-- > 0) PyBuffer_Release(&buffers[held]);
    PyMem_Free(from);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

/* Note where the values of each row's inputs begin; 0 where responses do not have that many rows of those widths. */
static int noted(const Plan *p, Py_ssize_t rows, PyObject *responses, const Py_ssize_t *order, const char **from) {
    Py_ssize_t at = 0, count = PyList_Size(responses);
    for (Py_ssize_t response = 0; response < count; response++) {
        PyObject *contents = PyList_GetItem(responses, response);
        if (!PyList_Check(contents)) return 0;
        Py_ssize_t here = -1, many = PyList_Size(contents);
        for (Py_ssize_t i = 0; i < p->n_inputs; i++) {
            PyObject *content = order[i] < many ? PyList_GetItem(contents, order[i]) : NULL;
            if (!content || !PyBytes_Check(content)) return 0;
            Py_ssize_t each = (Py_ssize_t)p->inputs[3 * i + 1] * 4, size = PyBytes_Size(content);
            if (size % each || (here >= 0 && size / each != here)) return 0;
            here = size / each;
            if (here > rows - at) return 0;
            const char *values = PyBytes_AsString(content);
            for (Py_ssize_t row = 0; row < here; row++) from[(at + row) * p->n_inputs + i] = values + row * each;
        }
        at += here;
    }
    return at == rows;
}

PyDoc_STRVAR(run_contents_doc, "run_contents(rows, responses, order, scores)\n--\n\n"
    "The same from a list of responses, each a list of bytes: float32 values of one row or more for each signal.\n"
    "`order`: where in such a list each input is. False, too, where these are not so many rows of the inputs' widths.");

static PyObject *plan_run_contents(Plan *p, PyObject *args) {
    Py_ssize_t rows, order[64];
    PyObject *responses, *places, *scores;
    Py_buffer written;
    if (!PyArg_ParseTuple(args, "nO!O!O", &rows, &PyList_Type, &responses, &PyTuple_Type, &places, &scores)) return NULL;
    if (PyTuple_Size(places) != p->n_inputs || !p->n_inputs) {
        PyErr_SetString(PyExc_ValueError, "a plan takes one place for each of its inputs");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < p->n_inputs; i++) {
        order[i] = PyLong_AsSsize_t(PyTuple_GetItem(places, i));
        if (order[i] < 0) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a place is negative");
            return NULL;
        }
    }
    const char **from = places_of(p, rows);
    if (!from) return NULL;
    int done = -1;
    if (taken(scores, &written, (int64_t)rows * p->n_outputs, PyBUF_CONTIG)) {
        done = noted(p, rows, responses, order, from) && evaluated(p, rows, from, written.buf);
        PyBuffer_Release(&written);
    }
    PyMem_Free(from);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyMethodDef plan_methods[] = {
    {"run", (PyCFunction)plan_run, METH_VARARGS, run_doc},
    {"run_contents", (PyCFunction)plan_run_contents, METH_VARARGS, run_contents_doc},
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
