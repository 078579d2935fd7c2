// A thread pool with the interface of XLA's, to run threads.h alone.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace xla::ffi {

class Workers {
 public:
  explicit Workers(int count) {
    for (int i = 0; i < count; i++) threads_.emplace_back([this] { run(); });
  }

  ~Workers() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      is_ending_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void add(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_one();
  }

  int64_t size() const { return threads_.size(); }

 private:
  void run() {
    while (true) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return is_ending_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool is_ending_ = false;
  std::vector<std::thread> threads_;
};

struct ThreadPool {
  Workers* workers;

  template <typename Task>
  void Schedule(Task&& task) const {
    workers->add(std::forward<Task>(task));
  }
  int64_t num_threads() const { return workers->size(); }
};

}  // namespace xla::ffi
