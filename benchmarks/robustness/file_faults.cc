// Fails one file operation of a program: preloaded with LD_PRELOAD, in front of the C library.
//
// Counts the operations on paths that contain $FILE_FAULTS_PATH, over all threads, from 1: opening,
// reading, writing, syncing, renaming, making and removing files and folders. Operation number
// $FILE_FAULTS_AT fails with the error number $FILE_FAULTS_ERROR; if that is 0, the process is
// killed before the operation; if it is negative, all later operations fail too, so that the files
// stay as they are. $FILE_FAULTS_LOG receives the names of all operations, one a line.
// file_faults_arm() changes the number and the error in a running program, and counts anew.
//
// file_faults.py compiles and configures this library.

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>

namespace {

constexpr int kMaxFiles = 1 << 16;
std::atomic<bool> is_watched[kMaxFiles];  // by file descriptor
std::atomic<long> count{0};

template <typename F>
F next(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

struct Settings {
  char path[PATH_MAX] = "", log[PATH_MAX] = "";
  std::atomic<long> at{0};
  std::atomic<int> error{0};

  static void copy(char* to, const char* name) {
    const char* value = getenv(name);
    snprintf(to, PATH_MAX, "%s", value ? value : "");
  }
  static long number(const char* name) {
    const char* value = getenv(name);
    return value ? atol(value) : 0;
  }

  Settings() {
    copy(path, "FILE_FAULTS_PATH");
    copy(log, "FILE_FAULTS_LOG");
    at = number("FILE_FAULTS_AT");
    error = static_cast<int>(number("FILE_FAULTS_ERROR"));
  }
};

Settings& settings() {
  static Settings the_settings;  // made by the first operation, which may precede all constructors
  return the_settings;
}

bool watched_path(const char* path) {
  const char* part = settings().path;
  return path && *part && strstr(path, part) != nullptr;
}

bool watched_file(int file) { return file >= 0 && file < kMaxFiles && is_watched[file]; }

// A path relative to a folder that is open, as os.scandir and shutil.rmtree use them.
bool watched_at(int folder, const char* path) { return watched_path(path) || watched_file(folder); }

void record(const char* name) {
  const char* log = settings().log;
  if (!*log) return;
  const int file = static_cast<int>(
      syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (file < 0) return;
  char line[64];
  const int length = snprintf(line, sizeof line, "%s\n", name);
  (void)!syscall(SYS_write, file, line, length);
  syscall(SYS_close, file);
}

// Returns whether the operation must fail, and then sets errno.
bool fails(const char* name) {
  const long number = ++count;
  record(name);
  const long at = settings().at;
  const int error = settings().error;
  if (number != at && !(error < 0 && at > 0 && number > at)) return false;
  if (!error) syscall(SYS_kill, getpid(), SIGKILL);
  errno = error < 0 ? -error : error;
  return true;
}

int opened(int file, bool is_of_watched_path) {
  if (file >= 0 && file < kMaxFiles) is_watched[file] = is_of_watched_path;
  return file;
}

}  // namespace

// Lets operation number `at` from now on fail; 0 for none. Returns the number of operations so far.
extern "C" long file_faults_arm(long at, int error) {
  settings().at = 0;
  const long number = count.exchange(0);
  settings().error = error;
  settings().at = at;
  return number;
}

#define MODE(flags)                                  \
  mode_t mode = 0;                                   \
  if ((flags) & (O_CREAT | __O_TMPFILE)) {           \
    va_list arguments;                               \
    va_start(arguments, flags);                      \
    mode = va_arg(arguments, mode_t);                \
    va_end(arguments);                               \
  }

#define OPEN(function)                                                                \
  extern "C" int function(const char* path, int flags, ...) {                         \
    MODE(flags)                                                                       \
    static auto real = next<int (*)(const char*, int, ...)>(#function);               \
    const bool is_ours = watched_path(path);                                          \
    if (is_ours && fails("open")) return -1;                        \
    return opened(real(path, flags, mode), is_ours);                                  \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(function)                                                              \
  extern "C" int function(int folder, const char* path, int flags, ...) {             \
    MODE(flags)                                                                       \
    static auto real = next<int (*)(int, const char*, int, ...)>(#function);          \
    const bool is_ours = watched_at(folder, path);                                    \
    if (is_ours && fails("open")) return -1;                        \
    return opened(real(folder, path, flags, mode), is_ours);                          \
  }
OPENAT(openat)
OPENAT(openat64)

extern "C" int close(int file) {
  static auto real = next<int (*)(int)>("close");
  if (file >= 0 && file < kMaxFiles) is_watched[file] = false;
  return real(file);
}

extern "C" DIR* opendir(const char* path) {
  static auto real = next<DIR* (*)(const char*)>("opendir");
  return watched_path(path) && fails("opendir") ? nullptr : real(path);
}

// An operation on an open file.
#define ON_FILE(result, function, parameters, ...)                              \
  extern "C" result function parameters {                                             \
    static auto real = next<result(*) parameters>(#function);                         \
    if (watched_file(file) && fails(#function)) return -1;                      \
    return real(__VA_ARGS__);                                                         \
  }
ON_FILE(ssize_t, read, (int file, void* to, size_t size), file, to, size)
ON_FILE(ssize_t, pread, (int file, void* to, size_t size, off_t at), file, to, size, at)
ON_FILE(ssize_t, pread64, (int file, void* to, size_t size, off64_t at), file, to, size, at)
ON_FILE(ssize_t, readv, (int file, const iovec* to, int parts), file, to, parts)
ON_FILE(ssize_t, preadv, (int file, const iovec* to, int parts, off_t at), file, to, parts,
        at)
ON_FILE(ssize_t, preadv64, (int file, const iovec* to, int parts, off64_t at), file, to,
        parts, at)
ON_FILE(ssize_t, write, (int file, const void* from, size_t size), file, from, size)
ON_FILE(ssize_t, pwrite, (int file, const void* from, size_t size, off_t at), file, from,
        size, at)
ON_FILE(ssize_t, pwrite64, (int file, const void* from, size_t size, off64_t at), file,
        from, size, at)
ON_FILE(ssize_t, writev, (int file, const iovec* from, int parts), file, from, parts)
ON_FILE(ssize_t, pwritev, (int file, const iovec* from, int parts, off_t at), file, from,
        parts, at)
ON_FILE(int, fsync, (int file), file)
ON_FILE(int, fdatasync, (int file), file)
ON_FILE(int, ftruncate, (int file, off_t size), file, size)
ON_FILE(int, ftruncate64, (int file, off64_t size), file, size)

// An operation on a path.
#define ON_PATH(is_ours, function, parameters, ...)                                   \
  extern "C" int function parameters {                                                \
    static auto real = next<int (*) parameters>(#function);                           \
    if (is_ours && fails(#function)) return -1;                              \
    return real(__VA_ARGS__);                                                         \
  }
ON_PATH(watched_path(to), rename, (const char* from, const char* to), from, to)
ON_PATH(watched_at(to_folder, to), renameat,
        (int folder, const char* from, int to_folder, const char* to), folder, from, to_folder, to)
ON_PATH(watched_path(path), mkdir, (const char* path, mode_t mode), path, mode)
ON_PATH(watched_at(folder, path), mkdirat, (int folder, const char* path, mode_t mode), folder,
        path, mode)
ON_PATH(watched_path(path), unlink, (const char* path), path)
ON_PATH(watched_at(folder, path), unlinkat, (int folder, const char* path, int flags), folder, path,
        flags)
ON_PATH(watched_path(path), rmdir, (const char* path), path)
