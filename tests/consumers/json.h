/* A JSON reader for the requests: a tree of values. Nothing is freed, the program is short-lived; the names and texts in these
 * files need no escapes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>


typedef struct Json {
    char type;                    /* '0' number, '"' text, '[' array, '{' object */
    double number;
    char *text, **keys;
    struct Json *items;
    int count;
} Json;

static const char *at;

static void fatal(const char *what) {
    fprintf(stderr, "tq: %s\n", what);
    exit(1);
}

static void *take(void *old, size_t size) {
    void *p = old ? realloc(old, size) : calloc(size + 1, 1);
    if (!p) fatal("out of memory");
    return p;
}

static void blank(void) { at += strspn(at, " \n\t\r"); }

static char *text(void) {
    const char *end = strchr(++at, '"');
    if (!end) fatal("unfinished text");
    char *s = take(NULL, (size_t)(end - at));
    memcpy(s, at, (size_t)(end - at));
    at = end + 1;
    return s;
}

static Json value(void) {
    Json v = {0};
    blank();
    v.type = *at;
    if (*at == '"') {
        v.text = text();
    } else if (*at == '[' || *at == '{') {
        char close = *at == '[' ? ']' : '}';
        int room = 0;
        for (at++, blank(); *at != close; blank()) {
            if (v.count && *at++ != ',') fatal("expected a comma");
            if (v.count == room) {
                room = 2 * room + 8;
                v.items = take(v.items, (size_t)room * sizeof *v.items);
                v.keys = take(v.keys, (size_t)room * sizeof *v.keys);
            }
            blank();
            if (close == '}') {
                v.keys[v.count] = text();
                blank();
                if (*at++ != ':') fatal("expected a colon");
            }
            v.items[v.count++] = value();
        }
        at++;
    } else {
        char *end;
        v.type = '0';
        v.number = strtod(at, &end);
        if (end == at) fatal("expected a value");
        at = end;
    }
    return v;
}

static const Json *get(const Json *o, const char *key) {
    for (int i = 0; i < o->count; i++)
        if (!strcmp(o->keys[i], key)) return &o->items[i];
    return NULL;
}

static const Json *need(const Json *o, const char *key) {
    const Json *v = get(o, key);
    if (!v) fatal(key);
    return v;
}

static int integer(const Json *o, const char *key) { return (int)need(o, key)->number; }
static int is(const Json *o, const char *key, const char *word) { return !strcmp(need(o, key)->text, word); }
