/* Looks few scores up on the scales of detectors: JointScore.of for every row of an array, to the bit.
 *
 * A scale is pieces between ascending knots, each a line; see joint.py, which is the reference and what runs where this
 * is not installed.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MOST_DETECTORS 256

typedef struct {
    Py_ssize_t pieces; /* one more than knots */
    const double *knots, *start, *value, *slope, *pvalue;
} Scale;

typedef struct {
    PyObject_HEAD
    Py_ssize_t detectors, needed; /* needed: the how manieth largest is the joint score; 0: the weighted sum */
    Scale *scales;
    double *weights, *numbers; /* numbers: of all scales */
} Scales;

/* How many of n ascending numbers are below x. */
static Py_ssize_t below(const double *ascending, Py_ssize_t n, double x) {
    Py_ssize_t low = 0;
    while (n > 0) {
        Py_ssize_t half = n / 2;
        if (ascending[low + half] < x) {
            low += half + 1;
            n -= half + 1;
        } else n = half;
    }
    return low;
}

/* -log p of a score, and the p-value of its piece. A number that is none speaks for an alarm. */
static double surprisal(const Scale *scale, double score, double *pvalue) {
    Py_ssize_t last = scale->pieces - 1;
    if (score != score) {
        *pvalue = scale->pvalue[last];
        return INFINITY;
    }
    Py_ssize_t piece = below(scale->knots, last, score);
    *pvalue = scale->pvalue[piece];
    return piece ? scale->value[piece] + scale->slope[piece] * (score - scale->start[piece]) : scale->value[0];
}

/* One nonconformity score from the detectors' -log p, which it may put into another order. */
static double joined(const Scales *s, double *surprisals) {
    if (!s->needed) {
        double total = 0;
        for (Py_ssize_t j = 0; j < s->detectors; j++)
            if (s->weights[j] != 0) total += s->weights[j] * surprisals[j];
        return total;
    }
    for (Py_ssize_t rank = 0; rank < s->needed; rank++) {
        Py_ssize_t most = rank;
        for (Py_ssize_t j = rank + 1; j < s->detectors; j++)
            if (surprisals[j] > surprisals[most]) most = j;
        double largest = surprisals[most];
        surprisals[most] = surprisals[rank];
        surprisals[rank] = largest;
    }
    return surprisals[s->needed - 1];
}

static double score_at(const Py_buffer *scores, Py_ssize_t at) {
    float narrow;
    double wide;
    if (scores->itemsize == sizeof(double)) {
        memcpy(&wide, (const char *)scores->buf + at * sizeof wide, sizeof wide);
        return wide;
    }
    memcpy(&narrow, (const char *)scores->buf + at * sizeof narrow, sizeof narrow);
    return narrow;
}

/* Put a new number into a list; 0 with an exception set where there is no memory. */
static int put(PyObject *list, Py_ssize_t at, double number) {
    PyObject *boxed = PyFloat_FromDouble(number);
    return boxed && PyList_SetItem(list, at, boxed) == 0;
}

/* Fill two lists, one of joint scores and one of lists of p-values. */
static int filled(const Scales *s, const Py_buffer *scores, Py_ssize_t rows, PyObject *joint, PyObject *details) {
    double surprisals[MOST_DETECTORS], pvalue;
    for (Py_ssize_t row = 0; row < rows; row++) {
        PyObject *of_row = PyList_New(s->detectors);
        if (!of_row || PyList_SetItem(details, row, of_row) < 0) return 0;
        for (Py_ssize_t j = 0; j < s->detectors; j++) {
            surprisals[j] = surprisal(&s->scales[j], score_at(scores, row * s->detectors + j), &pvalue);
            if (!put(of_row, j, pvalue)) return 0;
        }
        if (!put(joint, row, joined(s, surprisals))) return 0;
    }
    return 1;
}

PyDoc_STRVAR(of_doc, "of(scores)\n--\n\n"
    "Joint scores, a list of n, and each detector's p-values, n lists of d, from a contiguous array (n, d) of float32 or\n"
    "float64. None where it is another kind of array.");

static PyObject *scales_of(Scales *s, PyObject *array) {
    Py_buffer scores;
    if (PyObject_GetBuffer(array, &scores, PyBUF_ND | PyBUF_FORMAT) < 0) {
        PyErr_Clear();
        return Py_NewRef(Py_None);
    }
    int fits = scores.ndim == 2 && scores.shape[1] == s->detectors && scores.format &&
               (!strcmp(scores.format, "f") || !strcmp(scores.format, "d"));
    PyObject *result = NULL;
    if (!fits) result = Py_NewRef(Py_None);
    else {
        Py_ssize_t rows = scores.shape[0];
        PyObject *joint = PyList_New(rows), *details = PyList_New(rows);
        if (joint && details && filled(s, &scores, rows, joint, details)) result = PyTuple_Pack(2, joint, details);
        Py_XDECREF(joint);
        Py_XDECREF(details);
    }
    PyBuffer_Release(&scores);
    return result;
}

static void scales_dealloc(Scales *s) {
    PyTypeObject *type = Py_TYPE((PyObject *)s);
    PyMem_Free(s->scales);
    PyMem_Free(s->weights);
    PyMem_Free(s->numbers);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(s);
    Py_DECREF(type);
}

/* Take the scales: how many pieces each has, and of each its knots, starts, values, slopes and p-values. */
static int scales_filled(Scales *s, const char *lengths, Py_ssize_t many, const char *numbers, Py_ssize_t size,
                         const char *weights, Py_ssize_t size_of_weights) {
    s->detectors = many / (Py_ssize_t)sizeof(int64_t);
    int fits = many % (Py_ssize_t)sizeof(int64_t) == 0 && s->detectors >= 1 && s->detectors <= MOST_DETECTORS &&
               size_of_weights == s->detectors * (Py_ssize_t)sizeof(double) && s->needed >= 0 && s->needed <= s->detectors;
    if (fits) {
        s->scales = PyMem_Calloc((size_t)s->detectors, sizeof(Scale));
        s->weights = PyMem_Malloc((size_t)size_of_weights);
        s->numbers = PyMem_Malloc((size_t)size + 1);
        if (!s->scales || !s->weights || !s->numbers) return PyErr_NoMemory(), 0;
        memcpy(s->weights, weights, (size_t)size_of_weights);
        memcpy(s->numbers, numbers, (size_t)size);
    }
    Py_ssize_t left = size / (Py_ssize_t)sizeof(double);
    const double *at = s->numbers;
    for (Py_ssize_t j = 0; fits && j < s->detectors; j++) {
        int64_t pieces;
        memcpy(&pieces, lengths + j * (Py_ssize_t)sizeof pieces, sizeof pieces);
        fits = pieces >= 1 && pieces <= (left + 1) / 5;
        if (!fits) break;
        s->scales[j] = (Scale){pieces, at, at + pieces - 1, at + 2 * pieces - 1, at + 3 * pieces - 1, at + 4 * pieces - 1};
        at += 5 * pieces - 1;
        left -= 5 * pieces - 1;
    }
    if (fits && left == 0 && size % (Py_ssize_t)sizeof(double) == 0) return 1;
    PyErr_SetString(PyExc_ValueError, "scales do not fit together");
    return 0;
}

static PyObject *scales_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    const char *lengths, *numbers, *weights;
    Py_ssize_t many, size, size_of_weights, needed;
    (void)keywords;
    if (!PyArg_ParseTuple(args, "y#y#y#n", &lengths, &many, &numbers, &size, &weights, &size_of_weights, &needed))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Scales *s = (Scales *)allocate(type, 0); /* zeroed */
    if (!s) return NULL;
    s->needed = needed;
    if (!scales_filled(s, lengths, many, numbers, size, weights, size_of_weights)) {
        Py_DECREF(s);
        return NULL;
    }
    return (PyObject *)s;
}

static PyMethodDef scales_methods[] = {
    {"of", (PyCFunction)scales_of, METH_O, of_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot scales_slots[] = {
    {Py_tp_doc, "Scales(lengths, numbers, weights, needed): int64, doubles and doubles as bytes; raises ValueError."},
    {Py_tp_new, scales_new},
    {Py_tp_dealloc, scales_dealloc},
    {Py_tp_methods, scales_methods},
    {0, NULL},
};

static PyType_Spec scales_spec = {"tocsin_calibration.thresholds._scales.Scales", sizeof(Scales), 0, Py_TPFLAGS_DEFAULT,
                                  scales_slots};

static int executed(PyObject *module) {
    PyObject *type = PyType_FromSpec(&scales_spec);
    if (!type) return -1;
    int failed = PyModule_AddObjectRef(module, "Scales", type);
    Py_DECREF(type);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, executed}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_scales", "Looks few scores up on the scales of detectors.", 0, NULL, module_slots, NULL, NULL,
    NULL};

PyMODINIT_FUNC PyInit__scales(void) { return PyModuleDef_Init(&module); }
