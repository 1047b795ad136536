/* Reads the values at given paths of a JSON document in one pass: the native half of tocsin.protocols.http.scanner.
 *
 * scanner.py turns paths into nodes (members of an object, elements of an array) and slots, the values wanted. What a
 * document has beside them is checked to be JSON and skipped. Whatever is out of the ordinary makes scan() return None,
 * and msgspec reads that document: an error in it, a value of another type than wanted, arrays of unequal lengths, a
 * member of which there are two, or whose name has escapes. So scan() never has to say what is wrong.
 *
 * Every node and slot is checked once, when a Scanner is made: scan() then stays within its arrays whatever the document
 * is. It holds the interpreter's lock, so threads may share a Scanner.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "json_scan.h"

typedef struct {
    PyObject_HEAD
    PyObject *names; /* keeps the members' names alive */
    Plan plan;
} Scanner;

/* The numbers of a slot: one as a float, more as their shape and float32; None where there are none, NULL without an
 * exception where msgspec has to say what that means. */
static PyObject *numbers_of(const Found *found) {
    if (!found->count) {
        for (int i = 1; i < 2 * AXES; i++) /* something may be missing in arrays of arrays */
            if (found->lengths[i] > 0 || (found->lengths[i] == 0 && found->lengths[i - 1] > 1)) return NULL;
        return Py_NewRef(Py_None);
    }
    if (!found->dimensions) return PyFloat_FromDouble(found->single);
    int64_t size = 1;
    for (int i = 0; i < found->dimensions; i++) {
        if (found->lengths[i] < 1 || size > found->count / found->lengths[i]) return NULL;
        size *= found->lengths[i];
    }
    if (size != found->count) return NULL;
    PyObject *shape = PyTuple_New(found->dimensions);
    for (int i = 0; shape && i < found->dimensions; i++) {
        PyObject *length = PyLong_FromLong(found->lengths[i]);
        if (!length || PyTuple_SetItem(shape, i, length) < 0) Py_CLEAR(shape);
    }
    PyObject *raw = shape ? PyBytes_FromStringAndSize((const char *)found->values, found->count * (Py_ssize_t)sizeof(float)) : NULL;
    PyObject *result = raw ? PyTuple_Pack(2, shape, raw) : NULL;
    Py_XDECREF(shape);
    Py_XDECREF(raw);
    return result;
}

static PyObject *result_of(const Slot *slot, const Found *found) {
    switch (slot->kind) {
    case NUMBERS: return numbers_of(found);
    case TEXT: return found->text ? PyUnicode_DecodeUTF8(found->text, found->size, "strict") : Py_NewRef(Py_None);
    case PRESENCE: return PyBool_FromLong(found->is_there);
    default: return PyLong_FromSsize_t(found->is_there ? found->count : 0);
    }
}

PyDoc_STRVAR(scan_doc, "scan(document)\n--\n\n"
    "The values of the slots in a document (bytes), as a tuple; None where msgspec has to read it. NUMBERS: None, a float,\n"
    "or (shape, bytes of float32); TEXT: None or a str; PRESENCE: a bool; COUNT: an int.");

static PyObject *scanner_scan(Scanner *self, PyObject *document) {
    char *content;
    Py_ssize_t size;
    Scan s;
    if (!PyBytes_Check(document)) return Py_NewRef(Py_None);
    if (PyBytes_AsStringAndSize(document, &content, &size) < 0) return NULL;
    s.of = &self->plan;
    s.end = content + size;
    for (Py_ssize_t i = 0; i < self->plan.n_slots; i++) {
        forget(&s.found[i]);
        s.found[i].values = NULL;
        s.found[i].room = 0;
    }
    PyObject *result = NULL;
    const char *behind = value(&s, spaces_skipped(content), 0, 0, 0);
    if (behind && spaces_skipped(behind) == s.end) result = PyTuple_New(self->plan.n_slots);
    for (Py_ssize_t i = 0; result && i < self->plan.n_slots; i++) {
        PyObject *item = result_of(&self->plan.slots[i], &s.found[i]);
        if (!item || PyTuple_SetItem(result, i, item) < 0) Py_CLEAR(result);
    }
    for (Py_ssize_t i = 0; i < self->plan.n_slots; i++) PyMem_Free(s.found[i].values);
    if (result) return result;
    PyErr_Clear(); /* no UTF-8, or no memory */
    return Py_NewRef(Py_None);
}

static int failed(const char *problem) { return PyErr_Format(PyExc_ValueError, "a scanner cannot be made: %s", problem), -1; }

/* The integers of a tuple, at most so many; how many there are, -1 with an exception set. */
static int integers(PyObject *tuple, int32_t *into, int most) {
    Py_ssize_t size = PyTuple_Size(tuple);
    if (size < 0) return -1;
    if (size > most) return failed("there are too many slots or arrays");
    for (Py_ssize_t i = 0; i < size; i++) {
        long number = PyLong_AsLong(PyTuple_GetItem(tuple, i));
        if (number == -1 && PyErr_Occurred()) return -1;
        if (number < LAST || number > INT32_MAX) return failed("a number is out of range");
        into[i] = (int32_t)number;
    }
    return (int)size;
}

static int slot_filled(Slot *slot, PyObject *described) {
    PyObject *takes;
    if (!PyTuple_Check(described)) return failed("a slot is no tuple");
    if (!PyArg_ParseTuple(described, "iO!", &slot->kind, &PyTuple_Type, &takes)) return -1;
    if (slot->kind < 0 || slot->kind >= KINDS) return failed("a kind of slot is unknown");
    if ((slot->n_takes = integers(takes, slot->takes, AXES)) < 0) return -1;
    for (int i = 0; i < slot->n_takes; i++) {
        if (slot->takes[i] == LAST && slot->axes) return failed("the last element is taken within an axis");
        slot->axes += slot->takes[i] == ANY;
    }
    return slot->axes && (slot->kind == TEXT || slot->kind == COUNT) ? failed("texts and counts have no axes") : 0;
}

static int member_filled(Scanner *self, Member *member, PyObject *described) {
    PyObject *name;
    char *content;
    if (!PyTuple_Check(described)) return failed("a member is no tuple");
    if (!PyArg_ParseTuple(described, "Si", &name, &member->node)) return -1;
    if (PyList_Append(self->names, name) < 0 || PyBytes_AsStringAndSize(name, &content, &member->size) < 0) return -1;
    member->name = content;
    return 0;
}

/* Fill a node behind `arrays` arrays; notes at how many its own nodes are. */
static int node_filled(Scanner *self, int32_t number, int32_t *arrays, PyObject *described) {
    PyObject *members, *slots, *within;
    Node *node = &self->plan.nodes[number];
    if (!PyTuple_Check(described)) return failed("a node is no tuple");
    if (!PyArg_ParseTuple(described, "O!iiO!O!", &PyTuple_Type, &members, &node->element, &node->is_element, &PyTuple_Type,
                          &slots, &PyTuple_Type, &within))
        return -1;
    if (arrays[number] < 0) return failed("a node is nowhere");
    Py_ssize_t count = PyTuple_Size(members);
    if (count > MOST_MEMBERS) return failed("a node has too many members");
    if (!(node->members = PyMem_Calloc((size_t)count + 1, sizeof(Member)))) return PyErr_NoMemory(), -1;
    node->n_members = (int32_t)count;
    for (Py_ssize_t i = 0; i <= count; i++) {
        if (i < count && member_filled(self, &node->members[i], PyTuple_GetItem(members, i)) < 0) return -1;
        if (i == count && node->element < 0) break;
        int32_t next = i < count ? node->members[i].node : node->element, behind = arrays[number] + (i == count);
        if (next <= number || next >= self->plan.n_nodes || arrays[next] >= 0) return failed("nodes are no tree");
        if (behind > AXES) return failed("there are too many arrays in each other");
        arrays[next] = behind;
    }
    if ((node->n_slots = integers(slots, node->slots, MOST_SLOTS)) < 0) return -1;
    if ((node->n_within = integers(within, node->within, MOST_SLOTS)) < 0) return -1;
    for (int i = 0; i < node->n_slots + node->n_within; i++) {
        int32_t slot = i < node->n_slots ? node->slots[i] : node->within[i - node->n_slots];
        if (slot < 0 || slot >= self->plan.n_slots) return failed("a slot is unknown");
        int beyond = self->plan.slots[slot].n_takes - arrays[number];
        if (i < node->n_slots ? beyond : beyond < 1) return failed("a slot is at a wrong node");
        node->numbers += i < node->n_slots && self->plan.slots[slot].kind == NUMBERS;
        node->texts += i < node->n_slots && self->plan.slots[slot].kind == TEXT;
    }
    return 0;
}

static void scanner_dealloc(Scanner *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    for (Py_ssize_t i = 0; self->plan.nodes && i < self->plan.n_nodes; i++) PyMem_Free(self->plan.nodes[i].members);
    PyMem_Free(self->plan.nodes);
    Py_XDECREF(self->names);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *scanner_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *nodes, *slots;
    int any_case;
    (void)keywords;
    if (!PyArg_ParseTuple(args, "O!O!p", &PyTuple_Type, &nodes, &PyTuple_Type, &slots, &any_case)) return NULL;
    Py_ssize_t n_nodes = PyTuple_Size(nodes), n_slots = PyTuple_Size(slots);
    if (n_nodes < 1 || n_nodes > 1000 || n_slots > MOST_SLOTS) return failed("there are too many nodes or slots"), NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Scanner *self = (Scanner *)allocate(type, 0); /* zeroed */
    if (!self) return NULL;
    int32_t arrays[1000]; /* on the way to each node, -1 where no way is known */
    int is_made = (self->names = PyList_New(0)) && (self->plan.nodes = PyMem_Calloc((size_t)n_nodes, sizeof(Node)));
    self->plan.n_nodes = n_nodes;
    self->plan.n_slots = n_slots;
    self->plan.any_case = any_case;
    for (Py_ssize_t i = 0; i < n_nodes; i++) arrays[i] = i ? -1 : 0;
    for (Py_ssize_t i = 0; is_made && i < n_slots; i++)
        is_made = slot_filled(&self->plan.slots[i], PyTuple_GetItem(slots, i)) == 0;
    for (Py_ssize_t i = 0; is_made && i < n_nodes; i++)
        is_made = node_filled(self, (int32_t)i, arrays, PyTuple_GetItem(nodes, i)) == 0;
    if (is_made) return (PyObject *)self;
    if (!PyErr_Occurred()) PyErr_NoMemory();
    Py_DECREF(self);
    return NULL;
}

static PyMethodDef scanner_methods[] = {
    {"scan", (PyCFunction)scanner_scan, METH_O, scan_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot scanner_slots[] = {
    {Py_tp_doc,
     "Scanner(nodes, slots, any_case): a node is (members, element, is_element, slots, slots of its elements), a member (name, node),\n"
     "a slot (kind, what is taken of each array on the way to it). Raises ValueError."},
    {Py_tp_new, scanner_new},
    {Py_tp_dealloc, scanner_dealloc},
    {Py_tp_methods, scanner_methods},
    {0, NULL},
};

static PyType_Spec scanner_spec = {
    "tocsin.protocols.http._scanner.Scanner", sizeof(Scanner), 0, Py_TPFLAGS_DEFAULT, scanner_slots};

static int executed(PyObject *module) {
    PyObject *type = PyType_FromSpec(&scanner_spec);
    if (!type) return -1;
    int missing = PyModule_AddObjectRef(module, "Scanner", type);
    Py_DECREF(type);
    return missing;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, executed}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_scanner", "Reads the values at given paths of JSON documents.", 0, NULL, module_slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__scanner(void) { return PyModuleDef_Init(&module); }
