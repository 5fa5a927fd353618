/* A server's part of TensorFlow Serving without Python: loads a SavedModel with TensorFlow's C++ loader and runs
 * its signatures, once or from many threads.
 *
 *     host SAVEDMODEL PLAN                   runs each call once and writes its outputs
 *     host SAVEDMODEL PLAN THREADS SECONDS   then goes on from many threads, and compares each reply with the first
 *
 * PLAN is text, one call after another (no name has a space in it):
 *
 *     call LABEL INPUTS OUTPUTS
 *     in OPERATION INDEX DTYPE RANK DIM... FILE     (the bytes of the tensor, row by row)
 *     out OPERATION INDEX FILE
 *
 * To standard output goes one line a call, "ok LABEL" or "error LABEL CODE MESSAGE", "tensor DTYPE RANK DIM..." for
 * each of its outputs, and after threads a line of JSON. The exit code is 0 unless the host itself cannot work.
 */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tensorflow/c/c_api.h"

enum { NAME = 512, MOST_CALLS = 256, MOST_TENSORS = 8 };

typedef struct {
  char label[NAME];
  int num_inputs, num_outputs;
  TF_Output inputs[MOST_TENSORS], outputs[MOST_TENSORS];
  TF_Tensor *values[MOST_TENSORS], *expected[MOST_TENSORS];
  char files[MOST_TENSORS][NAME];
  TF_Code code;
} Call;

static TF_Graph *graph;
static TF_Session *session;
static Call calls[MOST_CALLS];
static int num_calls;
static double stop_at;
static long replies, refusals, wrong;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;

static void fail(const char *what, const char *detail) {
  fprintf(stderr, "host: %s: %s\n", what, detail);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

static long rss_kb(void) {
  char line[256];
  long kb = -1;
  FILE *file = fopen("/proc/self/status", "r");
  if (!file) return -1;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "VmRSS: %ld", &kb) == 1) break;
  fclose(file);
  return kb;
}

static TF_Output find(const char *name, int index) {
  TF_Output output = {TF_GraphOperationByName(graph, name), index};
  if (!output.oper) fail("no operation", name);
  return output;
}

static TF_Tensor *read_tensor(int dtype, int rank, const int64_t *dims, const char *path) {
  size_t size = TF_DataTypeSize((TF_DataType)dtype);
  for (int i = 0; i < rank; ++i) size *= (size_t)dims[i];
  TF_Tensor *tensor = TF_AllocateTensor((TF_DataType)dtype, dims, rank, size);
  FILE *file = fopen(path, "rb");
  if (!file || fread(TF_TensorData(tensor), 1, size, file) != size) fail("cannot read", path);
  fclose(file);
  return tensor;
}

static void read_plan(const char *path) {
  char word[NAME], name[NAME];
  FILE *plan = fopen(path, "r");
  if (!plan) fail("cannot read", path);
  while (fscanf(plan, "%511s", word) == 1) {
    Call *call = &calls[num_calls++];
    if (strcmp(word, "call") || num_calls == MOST_CALLS ||
        fscanf(plan, "%511s %d %d", call->label, &call->num_inputs, &call->num_outputs) != 3 ||
        call->num_inputs > MOST_TENSORS || call->num_outputs > MOST_TENSORS)
      fail("not a plan", path);
    for (int i = 0; i < call->num_inputs; ++i) {
      int index, dtype, rank;
      int64_t dims[8];
      if (fscanf(plan, " in %511s %d %d %d", name, &index, &dtype, &rank) != 4 || rank > 8) fail("not a plan", path);
      for (int d = 0; d < rank; ++d)
        if (fscanf(plan, "%ld", &dims[d]) != 1) fail("not a plan", path);
      call->inputs[i] = find(name, index);
      if (fscanf(plan, "%511s", name) != 1) fail("not a plan", path);
      call->values[i] = read_tensor(dtype, rank, dims, name);
    }
    for (int i = 0; i < call->num_outputs; ++i) {
      int index;
      if (fscanf(plan, " out %511s %d %511s", name, &index, call->files[i]) != 3) fail("not a plan", path);
      call->outputs[i] = find(name, index);
    }
  }
  fclose(plan);
}

static void run(const Call *call, TF_Tensor **results, TF_Status *status) {
  memset(results, 0, MOST_TENSORS * sizeof *results);
  TF_SessionRun(session, NULL, call->inputs, call->values, call->num_inputs, call->outputs, results,
                call->num_outputs, NULL, 0, NULL, status);
}

static void run_once(Call *call, TF_Status *status) {
  run(call, call->expected, status);
  call->code = TF_GetCode(status);
  if (call->code != TF_OK) {
    char message[NAME];
    snprintf(message, sizeof message, "%s", TF_Message(status));
    message[strcspn(message, "\n")] = 0;
    printf("error %s %d %s\n", call->label, call->code, message);
    return;
  }
  printf("ok %s\n", call->label);
  for (int i = 0; i < call->num_outputs; ++i) {
    const TF_Tensor *tensor = call->expected[i];
    FILE *file = fopen(call->files[i], "wb");
    if (!file || fwrite(TF_TensorData(tensor), 1, TF_TensorByteSize(tensor), file) != TF_TensorByteSize(tensor))
      fail("cannot write", call->files[i]);
    fclose(file);
    printf("tensor %d %d", TF_TensorType(tensor), TF_NumDims(tensor));
    for (int d = 0; d < TF_NumDims(tensor); ++d) printf(" %ld", (long)TF_Dim(tensor, d));
    printf("\n");
  }
}

/* Sums are added in another order under load: floats may differ in their last digits, and nothing else may. */
static int equal(const TF_Tensor *a, const TF_Tensor *b) {
  size_t size = TF_TensorByteSize(a);
  if (TF_TensorType(a) != TF_TensorType(b) || size != TF_TensorByteSize(b)) return 0;
  if (TF_TensorType(a) != TF_FLOAT) return size == 0 || !memcmp(TF_TensorData(a), TF_TensorData(b), size);
  const float *x = TF_TensorData(a), *y = TF_TensorData(b);
  for (size_t i = 0; i < size / sizeof *x; ++i)
    if (!(fabsf(x[i] - y[i]) <= 1e-4f * (1 + fabsf(y[i])))) return 0;
  return 1;
}

static void *work(void *argument) {
  long mine = 0, refused = 0, bad = 0;
  TF_Status *status = TF_NewStatus();
  for (int i = (int)(intptr_t)argument; now() < stop_at; ++i) {
    const Call *call = &calls[i % num_calls];
    TF_Tensor *results[MOST_TENSORS];
    run(call, results, status);
    int same = TF_GetCode(status) == call->code;
    for (int o = 0; o < call->num_outputs; ++o) {
      if (call->code == TF_OK) same = same && results[o] && equal(results[o], call->expected[o]);
      if (results[o]) TF_DeleteTensor(results[o]);
    }
    ++mine;
    refused += TF_GetCode(status) != TF_OK;
    bad += !same;
  }
  TF_DeleteStatus(status);
  pthread_mutex_lock(&counting);
  replies += mine, refusals += refused, wrong += bad;
  pthread_mutex_unlock(&counting);
  return NULL;
}

static void wait_until(double time) {
  struct timespec pause = {0, 10 * 1000 * 1000};
  while (now() < time) nanosleep(&pause, NULL);
}

static void run_threads(int num, double seconds) {
  pthread_t *threads = calloc((size_t)num, sizeof *threads);
  double start = now();
  stop_at = start + seconds;
  for (int i = 0; i < num; ++i)
    if (pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i)) fail("cannot start", "a thread");
  wait_until(start + seconds / 4);
  long warm = rss_kb();
  wait_until(start + seconds / 2);
  long half = rss_kb();
  wait_until(stop_at - 0.05);
  long end = rss_kb();
  for (int i = 0; i < num; ++i) pthread_join(threads[i], NULL);
  free(threads);
  printf("{\"threads\": %d, \"seconds\": %g, \"replies\": %ld, \"refusals\": %ld, \"wrong\": %ld, "
         "\"rss_kb_quarter\": %ld, \"rss_kb_half\": %ld, \"rss_kb_end\": %ld}\n",
         num, now() - start, replies, refusals, wrong, warm, half, end);
}

int main(int count, char **arguments) {
  if (count != 3 && count != 5) fail("usage", "host SAVEDMODEL PLAN [THREADS SECONDS]");
  const char *tags[] = {"serve"};
  TF_Status *status = TF_NewStatus();
  TF_SessionOptions *options = TF_NewSessionOptions();
  graph = TF_NewGraph();
  session = TF_LoadSessionFromSavedModel(options, NULL, arguments[1], tags, 1, graph, NULL, status);
  if (TF_GetCode(status) != TF_OK) fail("cannot load", TF_Message(status));
  read_plan(arguments[2]);
  for (int i = 0; i < num_calls; ++i) run_once(&calls[i], status);
  fflush(stdout);
  if (count == 5) run_threads(atoi(arguments[3]), atof(arguments[4]));
  return 0;
}
