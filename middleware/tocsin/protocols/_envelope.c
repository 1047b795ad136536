/* Reads the fields of a protobuf message whose values have a length, without looking into what is nested in them.
 *
 * Only the usual form is read: every number below 16, lengths in as few bytes as they take, texts once and in ASCII. Of
 * any other message nothing is said, and protobuf reads it: which decides whether it is one at all.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NUMBERS 16
#define MOST 1024 /* values of a message */

enum kind { UNKNOWN, TEXT, TEXT_UNREAD, MANY, MANY_UNREAD }; /* as in native_envelope.py */

typedef struct {
    const char *start;
    Py_ssize_t size;
    int number;
} Value;

static int is_ascii(const char *text, Py_ssize_t size) {
    unsigned char any = 0;
    for (Py_ssize_t i = 0; i < size; i++) any |= (unsigned char)text[i];
    return any < 128;
}

/* The length at a place, which it moves behind it; -1 where that takes more bytes than it must, or is none. */
static Py_ssize_t length_at(const char **at, const char *end) {
    Py_ssize_t length = 0;
    for (int shift = 0; shift < 35 && *at < end; shift += 7) {
        unsigned char byte = (unsigned char)*(*at)++;
        length |= (Py_ssize_t)(byte & 127) << shift;
        if (byte < 128) return byte || !shift ? length : -1;
    }
    return -1;
}

/* Find the values of a message; how many there are, -1 where it has another form. */
static Py_ssize_t found(const char *at, const char *end, const char *kinds, Value *values) {
    Py_ssize_t count = 0;
    unsigned texts = 0;
    while (at < end) {
        unsigned char tag = (unsigned char)*at++;
        if ((tag & 7) != 2 || tag > 127) return -1; /* a number of more than one byte has no kind */
        int number = tag >> 3, kind = kinds[number];
        if (kind == UNKNOWN || count == MOST) return -1;
        Py_ssize_t size = length_at(&at, end);
        if (size < 0 || size > end - at) return -1;
        if (kind == TEXT || kind == TEXT_UNREAD) {
            if (texts >> number & 1 || !size || !is_ascii(at, size)) return -1;
            texts |= 1u << number;
        }
        values[count++] = (Value){at, size, number};
        at += size;
    }
    return count;
}

/* A list of the values of a field; NULL with an exception set where there is no memory. */
static PyObject *all_of(int number, const Value *values, Py_ssize_t count) {
    Py_ssize_t many = 0, next = 0;
    for (Py_ssize_t i = 0; i < count; i++) many += values[i].number == number;
    PyObject *list = PyList_New(many);
    for (Py_ssize_t i = 0; list && i < count; i++) {
        if (values[i].number != number) continue;
        PyObject *content = PyBytes_FromStringAndSize(values[i].start, values[i].size);
        if (!content || PyList_SetItem(list, next++, content) < 0) Py_CLEAR(list);
    }
    return list;
}

/* The text of a field, which is empty where it is not there. */
static PyObject *text_of(int number, const Value *values, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++)
        if (values[i].number == number) return PyUnicode_FromStringAndSize(values[i].start, values[i].size);
    return PyUnicode_FromStringAndSize("", 0);
}

PyDoc_STRVAR(read_doc, "read(content, kinds)\n--\n\n"
    "A tuple of a message's fields by their numbers, texts as str and others as lists of bytes; None where it has another\n"
    "form. `kinds`: 16 bytes, what the field of each number is; those that are not read are left out.");

static PyObject *read_fields(PyObject *module, PyObject *args) {
    const char *content, *kinds;
    Py_ssize_t size, numbers;
    Value values[MOST];
    (void)module;
    if (!PyArg_ParseTuple(args, "y#y#", &content, &size, &kinds, &numbers)) return NULL;
    if (numbers != NUMBERS) {
        PyErr_SetString(PyExc_ValueError, "16 kinds of fields are needed");
        return NULL;
    }
    Py_ssize_t count = found(content, content + size, kinds, values), read = 0, at = 0;
    if (count < 0) return Py_NewRef(Py_None);
    for (int number = 0; number < NUMBERS; number++) read += kinds[number] == TEXT || kinds[number] == MANY;
    PyObject *fields = PyTuple_New(read);
    for (int number = 0; fields && number < NUMBERS; number++) {
        if (kinds[number] != TEXT && kinds[number] != MANY) continue;
        PyObject *field = kinds[number] == TEXT ? text_of(number, values, count) : all_of(number, values, count);
        if (!field || PyTuple_SetItem(fields, at++, field) < 0) Py_CLEAR(fields);
    }
    return fields;
}

static PyMethodDef methods[] = {{"read", read_fields, METH_VARARGS, read_doc}, {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot module_slots[] = {{0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_envelope", "Reads the fields of a protobuf message.", 0, methods, module_slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__envelope(void) { return PyModuleDef_Init(&module); }
