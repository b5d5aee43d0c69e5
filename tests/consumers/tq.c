/* TurboQuant in C, written from SPEC.md (with the docstrings of generator.py and rotation.py) and requests.json alone.
 *
 *     cc -std=c99 -O2 -ffp-contract=off -o tq tq.c -lm && ./tq requests.json responses.json
 *
 * Not offered: the codebook's own solution (Table), Gaussians and the Haar matrix, float16 and bfloat16 scalars.
 * float32 is computed as double rounded after every operation, which gives the same numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdint.h>

#include "json.h"

/* ---- numbers in the compute dtype, and refusals */

static int single;                /* float32? */
static jmp_buf refused;
static const char *reason;

static uint64_t seed_in(const Json *o) { return strtoull(need(o, "seed")->text, NULL, 16); }

static double R(double v) { return single ? (double)(float)v : v; }

static void refuse(const char *why) {
    reason = why;
    longjmp(refused, 1);
}

static double *zeros(int n) { return take(NULL, (size_t)n * sizeof(double)); }

static double *row(const Json *v) {
    double *x = zeros(v->count);
    for (int i = 0; i < v->count; i++) {
        if (v->items[i].type != '0') refuse("not a finite number");
        x[i] = v->items[i].number;
    }
    return x;
}

static double dot(const double *a, const double *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum = R(sum + R(a[i] * b[i]));
    return sum;
}

/* ||x|| and x / ||x||, scaled by a power of two first */
static double norm_and_unit(const double *x, int d, double *unit) {
    double largest = 0, sum = 0;
    int e;
    for (int i = 0; i < d; i++) largest = fmax(largest, fabs(x[i]));
    frexp(largest, &e);
    for (int i = 0; i < d; i++) sum += ldexp(x[i], -e) * ldexp(x[i], -e);
    double length = sqrt(sum), norm = R(ldexp(length, e));
    if (isinf(norm)) refuse("the norm is too large");
    for (int i = 0; i < d; i++) unit[i] = R(ldexp(x[i], -e) / (length > 0 ? length : 1));
    return norm;
}

/* ---- the generator */

static uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t word(uint64_t seed, uint64_t stream, uint64_t i) {
    uint64_t state = mix64(seed + (stream + 1) * 0x9E3779B97F4A7C15u);
    return mix64(state + (i + 1) * 0x9E3779B97F4A7C15u);
}

static int sign(uint64_t seed, uint64_t stream, uint64_t start, int i) {
    return (word(seed, stream, start + (uint64_t)i / 64) >> (i % 64)) & 1 ? 1 : -1;
}

static void angles(uint64_t seed, uint64_t stream, uint64_t start, int n, double *c, double *s) {
    for (int kept = 0; kept < n; start++) {
        uint64_t w = word(seed, stream, start);
        int64_t a = 2 * (int64_t)(w >> 38) + 1 - (1 << 26);
        int64_t b = 2 * (int64_t)((w >> 12) & ((1 << 26) - 1)) + 1 - (1 << 26);
        int64_t q = a * a + b * b;
        if (q > (int64_t)1 << 52) continue;
        c[kept] = (double)a / sqrt((double)q);
        s[kept++] = (double)b / sqrt((double)q);
    }
}

/* ---- rotations */

static void fwht(double *x, int n) {
    for (int s = 1; s < n; s *= 2)
        for (int i = 0; i < n; i++)
            if (!(i & s)) {
                double a = x[i], b = x[i + s];
                x[i] = R(a + b);
                x[i + s] = R(a - b);
            }
}

static void across(double *x, int chunk, int first, int n, int inverse) {
    int f = n / 2, q = n - f;
    double root = R(sqrt(0.5));
    if (n < 2) return;
    if (inverse) across(x, chunk, first, q, 1), across(x, chunk, first + q, f, 1);
    for (int i = first * chunk; i < (first + f) * chunk; i++) {
        double a = x[i], b = x[i + q * chunk];
        x[i] = R(R(a + b) * root);
        x[i + q * chunk] = R(R(a - b) * root);
    }
    if (!inverse) across(x, chunk, first, q, 0), across(x, chunk, first + q, f, 0);
}

static void structured(uint64_t seed, uint64_t stream, int d, double *x, int inverse) {
    int h = d / 2, width = (d + 63) / 64, chunk = d & -d;
    double *c = zeros(h), *s = zeros(h), factor = R(sqrt(1.0 / chunk));
    angles(seed, stream, 2 * (uint64_t)width, h, c, s);
    for (int step = 0; step < 2; step++) {
        int r = inverse ? 1 - step : step;
        if (step == 1)            /* the planes are between the two rounds */
            for (int i = 0; i < h; i++) {
                double a = x[i], b = x[d - h + i], cos = R(c[i]), sin = R(inverse ? -s[i] : s[i]);
                x[i] = R(R(cos * a) - R(sin * b));
                x[d - h + i] = R(R(sin * a) + R(cos * b));
            }
        if (inverse) across(x, chunk, 0, d / chunk, 1);
        for (int i = 0; i < d && !inverse; i++) x[i] = R(x[i] * (factor * sign(seed, stream, (uint64_t)(r * width), i)));
        for (int first = 0; first < d; first += chunk) fwht(x + first, chunk);
        for (int i = 0; i < d && inverse; i++) x[i] = R(x[i] * (factor * sign(seed, stream, (uint64_t)(r * width), i)));
        if (!inverse) across(x, chunk, 0, d / chunk, 0);
    }
}

/* M x, or M^T x, for a given matrix M (m, d), a structured rotation (m = d), or an orthogonal sketch of them */
static double *product(const Json *given, const double *x, int m, int d, int transposed, int sketch) {
    double *y = zeros(transposed ? d : m);
    if (is(given, "kind", "dense")) {
        const Json *rows = need(given, "matrix");
        for (int i = 0; i < m; i++)
            for (int j = 0; j < d; j++) {
                double entry = R(rows->items[i].items[j].number);
                if (transposed) y[j] = R(y[j] + R(entry * x[i]));
                else y[i] = R(y[i] + R(entry * x[j]));
            }
        return y;
    }
    double size = sketch ? R(sqrt(d)) : 1;
    for (int k = 0; k * d < m; k++) {
        int rows = m - k * d < d ? m - k * d : d;
        double *part = zeros(d);
        memcpy(part, transposed ? x + k * d : x, (size_t)(transposed ? rows : d) * sizeof *x);
        structured(seed_in(given), (uint64_t)(integer(given, "stream") + k), d, part, transposed);
        for (int i = 0; i < (transposed ? d : rows); i++) {
            if (transposed) y[i] = R(y[i] + part[i]);
            else y[k * d + i] = R(part[i] * size);
        }
    }
    for (int i = 0; i < d && transposed; i++) y[i] = R(y[i] * size);
    return y;
}

/* ---- codebook and packing */

static int index_of(const Json *centroids, double t) {
    int count = 0;
    for (int i = 0; i + 1 < centroids->count; i++)
        count += R((centroids->items[i].number + centroids->items[i + 1].number) / 2) <= t;
    return count;
}

typedef struct { unsigned char data[8192]; int size; } Bytes;

static void pack(Bytes *out, const double *numbers, int n, int bits) {
    for (int i = 0; i < n * bits; i++) {
        int number = (int)numbers[i / bits];
        if (number >> bits) refuse("a number that does not fit");
        out->data[out->size + i / 8] |= (unsigned char)(((number >> (i % bits)) & 1) << (i % 8));
    }
    out->size += (n * bits + 7) / 8;
}

static int scalar(Bytes *out, double v, int wide) {
    float f = (float)v;
    uint64_t word = 0;
    uint32_t half;
    double low = wide ? ldexp(1, -1022) : ldexp(1, -126);
    if (!(v == 0 || (fabs(v) >= low && !isinf(wide ? v : (double)f)))) return 0;
    memcpy(&word, &v, 8);
    memcpy(&half, &f, 4);
    for (int i = 0; i < (wide ? 8 : 4); i++) out->data[out->size++] = (unsigned char)((wide ? word : half) >> (8 * i));
    return 1;
}

/* ---- output */

static FILE *out;
static const char *comma, *separator = "";

static void key(const char *name) { fprintf(out, "%s\"%s\":", comma, name); comma = ","; }
static void number(const char *name, double v) { key(name); fprintf(out, "%.17g", v); }

static void numbers(const char *name, const double *v, int n) {
    key(name);
    for (int i = 0; i < n; i++) fprintf(out, "%c%.17g", i ? ',' : '[', v[i]);
    fprintf(out, "]");
}

static void bytes(const char *name, const Bytes *v) {
    key(name);
    fputc('"', out);
    for (int i = 0; i < v->size; i++) fprintf(out, "%02x", v->data[i]);
    fputc('"', out);
}

/* ---- Algorithm 1, the sketch, and Algorithm 2: one function, since the third is the first and then the second */

static void algorithm(const Json *g, const Json *inputs, int mse, int qjl) {
    int d = integer(g, "d"), m = qjl ? integer(g, "m") : 0, wide = is(g, "scalars", "float64"), stored = 1;
    const double *x = row(need(inputs, "x")), *query = get(inputs, "query") ? row(need(inputs, "query")) : zeros(d);
    double *unit = zeros(d), *asked = zeros(d), *first = zeros(d), *r = unit, factor = 1, gamma = 1, estimate = 0;
    const Json *centroids = get(g, "centroids"), *pi = get(g, "rotation");
    double norm = norm_and_unit(x, d, unit), query_norm = norm_and_unit(query, d, asked);
    Bytes packed = {{0}, 0};
    mse = mse && centroids->count;
    number("norm", norm);
    numbers("unit", unit, d);
    if (mse) {
        double *z = product(pi, unit, d, d, 0, 0), *q = zeros(d), *idx = zeros(d);
        for (int i = 0; i < d; i++) {
            idx[i] = index_of(centroids, z[i]);
            q[i] = R(centroids->items[(int)idx[i]].number);
        }
        first = product(pi, q, d, d, 1, 0);
        numbers("rotated", z, d);
        numbers("indices", idx, d);
        pack(&packed, idx, d, integer(g, "bits") - qjl);
        estimate = dot(product(pi, asked, d, d, 0, 0), q, d);
        if (!qjl) {
            double qq = dot(q, q, d), zq = norm > 0 ? dot(z, q, d) : 1;
            if (is(g, "scale", "matched")) factor = R(1 / R(sqrt(qq)));
            if (is(g, "scale", "least_squares")) factor = R(zq / qq);
            if (is(g, "scale", "unbiased")) factor = R(1 / zq);
            norm = R(norm * factor);
            number("scale", norm);
        }
    }
    if (qjl) {
        const Json *rule = get(g, "residual"), *s = need(g, "sketch");
        if (rule) {
            double *scratch = zeros(d);
            r = zeros(d);
            for (int i = 0; i < d; i++) r[i] = norm > 0 ? R(unit[i] - first[i]) : 0;
            gamma = norm_and_unit(r, d, scratch);
            if (!strcmp(rule->text, "expected")) gamma = norm > 0 ? R(need(g, "expectedResidual")->number) : 0;
            numbers("residual", r, d);
            number("residual_norm", gamma);
        }
        double *p = product(s, r, m, d, 0, 1), *z = zeros(m), weight = R(gamma * R(1 / (m * need(g, "mu")->number)));
        double *signs = zeros(m);
        for (int i = 0; i < m; i++) {
            signs[i] = p[i] >= 0;
            z[i] = 2 * signs[i] - 1;
        }
        numbers("projection", p, m);
        numbers("signs", signs, m);
        pack(&packed, signs, m, 1);
        estimate = R(estimate + R(dot(product(s, asked, m, d, 0, 1), z, m) * weight));
        double *second = product(s, z, m, d, 1, 1);
        for (int i = 0; i < d; i++) first[i] = R(first[i] + R(weight * second[i]));
    }
    stored = scalar(&packed, norm, wide);
    if (mse && qjl && is(g, "residual", "stored")) stored = stored && scalar(&packed, gamma, wide);
    for (int i = 0; i < d; i++) first[i] = R(norm * first[i]);
    numbers("decoded", first, d);
    if (stored) bytes("packed", &packed);
    number("estimate", R(estimate * query_norm * norm));
}

static void unpack(const char *hex, int bits, int n) {
    double *found = zeros(n);
    if ((int)strlen(hex) / 2 != (n * bits + 7) / 8) refuse("another number of bytes");
    for (int i = 0; i < 4 * (int)strlen(hex); i++) {
        char pair[3] = {hex[i / 8 * 2], hex[i / 8 * 2 + 1], 0};
        int bit = (int)(strtol(pair, NULL, 16) >> (i % 8)) & 1;
        if (i >= n * bits && bit) refuse("padding that is not zero");
        if (i < n * bits) found[i / bits] += bit << (i % bits);
    }
    numbers("numbers", found, n);
}

static void primitive(const Json *g, const Json *in) {
    Bytes packed = {{0}, 0};
    const Json *list = in->items; /* the only or the first input */
    int n = get(in, "n") ? integer(in, "n") : list->count;
    double *x = list->type == '[' ? row(list) : zeros(n), *y = zeros(n);
    memcpy(y, x, (size_t)n * sizeof *y);
    if (is(g, "type", "Bits")) {
        pack(&packed, x, n, integer(g, "bits"));
        bytes("packed", &packed);
    } else if (is(g, "type", "Unpack")) {
        unpack(list->text, integer(g, "bits"), integer(g, "n"));
    } else if (is(g, "type", "Scalars")) {
        for (int i = 0; i < n; i++)
            if (!scalar(&packed, x[i], is(g, "scalars", "float64"))) refuse("out of range");
        bytes("packed", &packed);
    } else if (is(g, "type", "Index")) {
        for (int i = 0; i < n; i++) y[i] = index_of(need(g, "centroids"), x[i]);
        numbers("indices", y, n);
    } else if (is(g, "type", "Fwht")) {
        fwht(x, n);
        numbers("y", x, n);
    } else if (is(g, "type", "Structured")) {
        structured(seed_in(g), (uint64_t)integer(g, "stream"), n, x, 0);
        structured(seed_in(g), (uint64_t)integer(g, "stream"), n, y, 1);
        numbers("rotated", x, n);
        numbers("inverse", y, n);
    } else {
        uint64_t seed = seed_in(in), stream = (uint64_t)integer(in, "stream");
        if (is(g, "type", "Words")) {
            key("words");
            for (uint64_t i = 0; i < (uint64_t)n; i++)
                fprintf(out, "%s\"%016llx\"", i ? "," : "[", (unsigned long long)word(seed, stream, i));
            fputc(']', out);
        } else if (is(g, "type", "Signs")) {
            for (int i = 0; i < n; i++) x[i] = sign(seed, stream, 0, i);
            numbers("signs", x, n);
        } else {
            angles(seed, stream, 0, n, x, y);
            numbers("cosines", x, n);
            numbers("sines", y, n);
        }
    }
}

static void respond(const Json *g, const Json *request) {
    int mse = is(g, "type", "Mse") || is(g, "type", "Prod"), qjl = is(g, "type", "Qjl") || is(g, "type", "Prod");
    const Json *inputs = need(request, "inputs");
    comma = "";
    fprintf(out, "%s\n\"%s\":{", separator, need(request, "id")->text);
    separator = ",";
    if (setjmp(refused)) fprintf(out, "\"error\":\"%s\"", reason);
    else if (mse || qjl) algorithm(g, inputs, mse, qjl);
    else primitive(g, inputs);
    fputc('}', out);
}

int main(int argc, char **argv) {
    FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL;
    static char all[1 << 24];
    if (!in || !fread(all, 1, sizeof all - 1, in)) fatal("usage: tq requests.json responses.json");
    at = all;
    Json document = value();
    const Json *groups = need(&document, "groups");
    out = fopen(argv[2], "wb");
    if (!out) fatal("cannot write the responses");
    fprintf(out, "{\"responses\":{");
    for (int i = 0; i < groups->count; i++) {
        const Json *g = &groups->items[i], *asked = need(g, "requests"), *dtype = get(g, "dtype");
        if (is(g, "type", "Table") || is(g, "type", "Gaussians") || is(g, "type", "Haar")) continue;
        if (is(g, "algorithm", "polar") || is(g, "algorithm", "rabitq") || is(g, "algorithm", "attention")) continue;
        if (is(g, "type", "Scalars") && !is(g, "scalars", "float32") && !is(g, "scalars", "float64")) continue;
        single = dtype && !strcmp(dtype->text, "float32");
        for (int j = 0; j < asked->count; j++) respond(g, &asked->items[j]);
    }
    fprintf(out, "\n}}\n");
    return fclose(out) == 0 ? 0 : 1;
}
