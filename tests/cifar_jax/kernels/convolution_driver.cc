// Runs the convolutions without XLA, for sanitizers: random shapes, values against plain loops.
//
//   convolution_driver SEED COUNT
//
// Prints one line for each operation that is wrong, and exits with 1 if there is one.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "convolution.h"

using kernels::Convolution;
using kernels::Operations;

namespace {

// Two threads that take turns with the chunks.
void two_threads(int64_t chunks, const std::function<void(int64_t)>& work) {
  std::thread other([&] {
    for (int64_t i = 1; i < chunks; i += 2) work(i);
  });
  for (int64_t i = 0; i < chunks; i += 2) work(i);
  other.join();
}

// A tensor in memory of exactly its size, so that a sanitizer notices one element too many.
struct Tensor {
  bool bfloat16;
  std::vector<double> values;
  std::unique_ptr<char[]> bytes;

  Tensor(bool bfloat16, int64_t size) : bfloat16(bfloat16), values(size) {
    bytes.reset(new char[size * element()]);
    std::memset(bytes.get(), 0xff, size * element());  // NaN
  }
  int64_t element() const { return bfloat16 ? 2 : 4; }
  void fill(std::mt19937& random) {
    for (size_t i = 0; i < values.size(); i++) {
      values[i] = static_cast<int>(random() % 33 - 16) / 16.0;  // exact in bfloat16
      const float value = static_cast<float>(values[i]);
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      std::memcpy(bytes.get() + i * element(), reinterpret_cast<char*>(&bits) + 4 - element(),
                  element());
    }
  }
  double read(int64_t i) const {
    uint32_t bits = 0;
    std::memcpy(reinterpret_cast<char*>(&bits) + 4 - element(), bytes.get() + i * element(),
                element());
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
};

// Every product of x, w and y's elements that the convolution has.
template <typename Visit>
void visit(const Convolution& c, const Visit& visit) {
  for (int64_t n = 0; n < c.images; n++)
    for (int64_t oy = 0; oy < c.out_height; oy++)
      for (int64_t ox = 0; ox < c.out_width; ox++)
        for (int64_t ky = 0; ky < c.kernel_height; ky++)
          for (int64_t kx = 0; kx < c.kernel_width; kx++) {
            const int64_t iy = oy * c.stride_y - c.pad_y + ky, ix = ox * c.stride_x - c.pad_x + kx;
            if (iy < 0 || iy >= c.height || ix < 0 || ix >= c.width) continue;
            for (int64_t ch = 0; ch < c.channels; ch++)
              for (int64_t f = 0; f < c.filters; f++)
                visit(((n * c.height + iy) * c.width + ix) * c.channels + ch,
                      ((ky * c.kernel_width + kx) * c.channels + ch) * c.filters + f,
                      ((n * c.out_height + oy) * c.out_width + ox) * c.filters + f);
          }
}

bool close(const char* what, const Operations& operations, const Convolution& c,
           const Tensor& actual, const std::vector<double>& expected) {
  for (size_t i = 0; i < expected.size(); i++) {
    // Products and sums of small sixteenths are exact in float32; the result is rounded once.
    const double limit = operations.bfloat16 ? std::abs(expected[i]) / 256 : 0;
    if (std::abs(actual.read(i) - expected[i]) <= limit) continue;
    std::printf("%s %s: element %zu is %g, not %g (images %ldx%ldx%ldx%ld, kernel %ldx%ldx%ld, "
                "output %ldx%ld, strides %ldx%ld, padding %ldx%ld)\n",
                operations.name, what, i, actual.read(i), expected[i], c.images, c.height, c.width,
                c.channels, c.kernel_height, c.kernel_width, c.filters, c.out_height, c.out_width,
                c.stride_y, c.stride_x, c.pad_y, c.pad_x);
    return false;
  }
  return true;
}

Convolution draw(std::mt19937& random) {
  const auto from = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % (high - low + 1));
  };
  Convolution c;
  c.images = from(1, 3) == 1 ? from(30, 70) : from(1, 20);
  c.kernel_height = from(1, 4), c.kernel_width = from(1, 4);
  c.height = from(1, 7), c.width = from(1, 7);
  c.channels = from(1, 4) == 1 ? from(60, 70) : from(1, 40);
  c.filters = from(1, 4) == 1 ? from(60, 70) : from(1, 40);
  c.stride_y = from(1, 3), c.stride_x = from(1, 3);
  c.pad_y = from(0, 3), c.pad_x = from(0, 3);
  c.out_height = from(1, 1 + (c.height + c.pad_y) / c.stride_y);
  c.out_width = from(1, 1 + (c.width + c.pad_x) / c.stride_x);
  return c;
}

float* floats(const Tensor& tensor) { return reinterpret_cast<float*>(tensor.bytes.get()); }

bool check(const Operations& operations, const Convolution& c, std::mt19937& random) {
  const bool bf16 = operations.bfloat16;
  const int64_t y_size = c.images * c.out_height * c.out_width * c.filters;
  Tensor x(bf16, c.images * c.height * c.width * c.channels);
  Tensor w(bf16, c.kernel_height * c.kernel_width * c.channels * c.filters);
  Tensor bias(false, c.filters), dbias(false, c.filters);
  Tensor dy(bf16, y_size), y(bf16, y_size), dx(bf16, x.values.size()), dw(bf16, w.values.size());
  x.fill(random), w.fill(random), dy.fill(random), bias.fill(random);
  for (int64_t i = 0; i < y_size; i++) {
    y.values[i] += bias.values[i % c.filters];
    dbias.values[i % c.filters] += dy.values[i];
  }
  visit(c, [&](int64_t i, int64_t j, int64_t k) {
    y.values[k] += x.values[i] * w.values[j];
    dx.values[i] += dy.values[k] * w.values[j];
    dw.values[j] += dy.values[k] * x.values[i];
  });
  operations.forward(c, x.bytes.get(), w.bytes.get(), floats(bias), y.bytes.get(),
                     two_threads, 2);
  operations.input_gradient(c, dy.bytes.get(), w.bytes.get(), dx.bytes.get(), two_threads, 2);
  operations.weight_gradient(c, x.bytes.get(), dy.bytes.get(), dw.bytes.get(), floats(dbias),
                             two_threads, 2);
  const bool forward = close("forward", operations, c, y, y.values);
  const bool input = close("input gradient", operations, c, dx, dx.values);
  const bool weights = close("weight gradient", operations, c, dw, dw.values);
  return close("bias gradient", operations, c, dbias, dbias.values) && weights && forward && input;
}

}  // namespace

int main(int count, char** arguments) {
  std::mt19937 random(count > 1 ? std::atoi(arguments[1]) : 0);
  const int shapes = count > 2 ? std::atoi(arguments[2]) : 50;
  // Weights so large that their gradient packs dy before everything else.
  const Convolution large = {35, 2, 2, 70, 3, 3, 1100, 2, 2, 1, 1, 1, 1};
  bool good = true;
  for (int i = 0; i < shapes; i++) {
    const Convolution c = i ? draw(random) : large;
    for (const Operations* operations : kernels::all_operations()) {
      if (kernels::instruction_set() >= operations->needs) {
        good = check(*operations, c, random) && good;
      }
    }
  }
  std::printf("%d shapes: %s\n", shapes, good ? "all right" : "wrong");
  return good ? 0 : 1;
}
