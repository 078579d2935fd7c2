// Runs parallel_for from several threads of one pool at once, for a sanitizer. Each chunk must be done
// once. If a chunk throws bad_alloc, the call must throw it too.
#include <cstdio>
#include <cstdlib>

#include "threads.h"

namespace {

std::atomic<int> failures{0};

void check(bool is_right, const char* what) {
  if (is_right) return;
  std::printf("%s\n", what);
  failures++;
}

void call(xla::ffi::ThreadPool pool, int64_t chunks, int64_t failing) {
  std::vector<int> done(chunks, 0);
  bool has_thrown = false;
  try {
    kernels::on_threads(pool)(chunks, [&](int64_t i) {
      done[i]++;
      if (failing && i % failing == 0) throw std::bad_alloc();
    });
  } catch (const std::bad_alloc&) {
    has_thrown = true;
  }
  check(has_thrown == (failing != 0), "a chunk without memory goes unnoticed");
  for (const int times : done) check(times == 1, "a chunk is not done once");
}

}  // namespace

int main() {
  std::atomic<int> running{0};
  xla::ffi::Workers workers(3);
  const xla::ffi::ThreadPool pool{&workers};
  for (int round = 0; round < 300; round++) {
    running++;
    workers.add([&running, pool, round] {
      call(pool, 1 + round % 40, 0);
      call(pool, 2 + round % 40, 1 + round % 5);
      running--;
    });
  }
  while (running) std::this_thread::yield();
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
