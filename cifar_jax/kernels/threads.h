// Work divided among XLA's threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <thread>

#include "chunks.h"
#include "xla/ffi/api/ffi.h"

namespace kernels {

// Calls work(i) once for every chunk i in [0, chunks), on the calling thread and on `pool`'s.
//
// XLA runs independent calls at once on one pool of as many threads as cores, so a call that waits
// for a task nobody has started may wait for itself. Therefore tasks and caller take chunks from
// one counter. The caller takes chunks until none is left, and then waits only for chunks that a
// running thread holds. A task that starts later finds none and touches nothing of the caller's
// but the shared counters. Which thread takes a chunk varies; what a chunk is does not, so results
// do not depend on timing. If a chunk runs out of memory, the others are still taken, because
// threads read `work` until then; the call then throws.
template <typename Work>
void parallel_for(xla::ffi::ThreadPool pool, int64_t chunks, const Work& work) {
  struct Counters {
    std::atomic<int64_t> next{0}, done{0};
    std::atomic<bool> has_failed{false};
  };
  const int64_t helpers = (chunks < pool.num_threads() ? chunks : pool.num_threads()) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < chunks; i++) work(i);
    return;
  }
  auto counters = std::make_shared<Counters>();
  const Work* shared_work = &work;
  auto take = [counters, chunks, shared_work] {
    for (int64_t i; (i = counters->next.fetch_add(1)) < chunks;) {
      try {
        (*shared_work)(i);
      } catch (const std::bad_alloc&) {
        counters->has_failed = true;
      }
      counters->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (int64_t i = 0; i < helpers; i++) pool.Schedule(decltype(take)(take));
  take();
  for (int spins = 0; counters->done.load(std::memory_order_acquire) < chunks; spins++) {
    if (spins < 1000) {
      __builtin_ia32_pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (counters->has_failed) throw std::bad_alloc();
}

// Returns parallel_for bound to `pool`.
inline ParallelFor on_threads(xla::ffi::ThreadPool pool) {
  return [pool](int64_t chunks, const std::function<void(int64_t)>& work) {
    parallel_for(pool, chunks, work);
  };
}

}  // namespace kernels
