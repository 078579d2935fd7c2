// Runs batch norm, max-pooling and dropout without XLA, for sanitizers: random shapes, against plain
// loops.
//
//   passes_driver SEED COUNT
//
// Prints one line for each result that is wrong, and exits with 1 if there is one.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "dropout.h"
#include "normalization.h"
#include "pooling.h"

namespace {

int failures = 0;

void in_order(int64_t chunks, const std::function<void(int64_t)>& work) {
  for (int64_t i = chunks; i-- > 0;) work(i);
}

// An array in memory of exactly its size, so that a sanitizer notices one element too many.
struct Array {
  bool bfloat16;
  int64_t size;
  std::unique_ptr<char[]> bytes;

  Array(bool bfloat16, int64_t size) : bfloat16(bfloat16), size(size) {
    bytes.reset(new char[size * element()]);
    std::memset(bytes.get(), 0xff, size * element());  // NaN
  }
  Array(bool bfloat16, int64_t size, std::mt19937& random) : Array(bfloat16, size) {
    for (int64_t i = 0; i < size; i++) {
      const float value = (static_cast<int>(random() % 33) - 16) / 16.0f;  // exact in bfloat16
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      std::memcpy(bytes.get() + i * element(), reinterpret_cast<char*>(&bits) + 4 - element(),
                  element());
    }
  }
  int64_t element() const { return bfloat16 ? 2 : 4; }
  float operator[](int64_t i) const {
    uint32_t bits = 0;
    std::memcpy(reinterpret_cast<char*>(&bits) + 4 - element(), bytes.get() + i * element(),
                element());
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  void* data() const { return bytes.get(); }
  const float* floats() const { return reinterpret_cast<const float*>(bytes.get()); }
};

void check(const char* what, int64_t channels, double got, double want, double scale) {
  if (!(std::abs(got - want) <= 0.005 * scale)) {
    std::printf("%s, %lld channels: %g, not %g\n", what, static_cast<long long>(channels), got,
                want);
    failures++;
  }
}

double cumulative(double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; }  // of the normal one

double activated(kernels::Activation activation, double x) {
  switch (activation) {
    case kernels::Activation::kRelu: return std::max(0.0, x);
    case kernels::Activation::kElu: return x > 0 ? x : std::expm1(x);
    case kernels::Activation::kGelu: return x * cumulative(x);
    default: return x;
  }
}

double slope(kernels::Activation activation, double x) {
  switch (activation) {
    case kernels::Activation::kRelu: return x > 0;
    case kernels::Activation::kElu: return x > 0 ? 1 : std::exp(x);
    case kernels::Activation::kGelu:
      return cumulative(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0));
    default: return 1;
  }
}

void normalize(bool bfloat16, kernels::Activation activation, bool has_residual, std::mt19937& random) {
  const int64_t rows = 1 + random() % 900, channels = 1 + random() % 130, size = rows * channels;
  const Array x(bfloat16, size, random), dy(bfloat16, size, random), added(bfloat16, size, random);
  const Array y(bfloat16, size), dx(bfloat16, size), passed(bfloat16, size);
  std::vector<Array> c;  // mean, factor, bias, slope, offset
  for (int i = 0; i < 5; i++) c.emplace_back(false, channels, random);
  std::vector<double> sum(channels), square(channels), dy_sum(channels), product(channels);
  const kernels::Normalization n = {rows,          channels,      activation,
                                    c[0].floats(), c[1].floats(), c[2].floats()};
  const bool stored = has_residual && activation == kernels::Activation::kRelu;
  const kernels::NormalizationPasses& passes = *kernels::normalization_passes(bfloat16);
  passes.statistics(n, x.data(), sum.data(), square.data(), in_order);
  passes.normalize(n, x.data(), has_residual ? added.data() : nullptr, y.data(), in_order);
  passes.gradient_sums(n, x.data(), dy.data(), stored ? y.data() : nullptr, dy_sum.data(),
                       product.data(), stored ? passed.data() : nullptr, in_order);
  passes.input_gradient(n, x.data(), dy.data(), c[3].floats(), c[4].floats(), dx.data(), in_order);

  for (int64_t i = 0; i < channels; i++) {
    double totals[4] = {};
    for (int64_t j = i; j < size; j += channels) {
      const bool before = activation == kernels::Activation::kReluBefore;
      const double value = before ? std::max(0.0f, x[j]) : x[j];
      const double centred = value - c[0][i], normal = centred * c[1][i] + c[2][i];
      const double result = normal + (has_residual ? added[j] : 0);
      check("y", channels, y[j], activated(activation, result), 1 + std::abs(result));
      const double through = dy[j] * slope(activation, stored ? y[j] : normal);
      if (stored) check("passed", channels, passed[j], through, 1);
      const double alone = dy[j] * slope(activation, normal);
      const double gradient = alone * c[1][i] + centred * c[3][i] + c[4][i];
      check("dx", channels, dx[j], before && x[j] <= 0 ? 0 : gradient, 1 + std::abs(gradient));
      const double terms[] = {value, value * value, through, through * centred};
      for (int k = 0; k < 4; k++) totals[k] += terms[k];
    }
    check("sum", channels, sum[i], totals[0], rows);
    check("square", channels, square[i], totals[1], rows);
    check("dy", channels, dy_sum[i], totals[2], rows);
    check("product", channels, product[i], totals[3], rows);
  }
}

void pool(bool bfloat16, std::mt19937& random) {
  const int64_t window = 1 + random() % 3, height = window + random() % 9;
  const kernels::Pooling p = {1 + static_cast<int64_t>(random() % 5), height,
                              window + static_cast<int64_t>(random() % 9),
                              1 + static_cast<int64_t>(random() % 70), window};
  const int64_t outputs = p.images * p.rows() * p.columns() * p.channels;
  const int64_t size = p.images * p.height * p.width * p.channels;
  const Array x(bfloat16, size, random), dy(bfloat16, outputs, random);
  const Array y(bfloat16, outputs), dx(bfloat16, size);
  kernels::pooling_passes(bfloat16)->forward(p, x.data(), y.data(), in_order);
  kernels::pooling_passes(bfloat16)->gradient(p, x.data(), dy.data(), dx.data(), in_order);

  std::vector<double> gradient(size);
  for (int64_t i = 0; i < outputs; i++) {
    const int64_t channel = i % p.channels, column = i / p.channels % p.columns();
    const int64_t row = i / p.channels / p.columns();  // of all images
    const int64_t image = row / p.rows();
    int64_t best = -1;
    for (int64_t j = 0; j < window * window; j++) {
      const int64_t top = image * p.height + row % p.rows() * window + j / window;
      const int64_t at = (top * p.width + column * window + j % window) * p.channels + channel;
      if (best < 0 || x[at] > x[best]) best = at;
    }
    check("maximum", p.channels, y[i], x[best], 0);
    gradient[best] = dy[i];
  }
  for (int64_t i = 0; i < size; i++) check("pool dx", p.channels, dx[i], gradient[i], 0);
}

// The words that jax.random.bits draws: Threefry-2x32 with 20 rounds (Salmon et al. 2011).
uint32_t threefry(uint32_t key0, uint32_t key1, uint32_t number) {
  const uint32_t keys[3] = {key0, key1, key0 ^ key1 ^ 0x1BD11BDA};
  const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  uint32_t x = key0, y = number + key1;
  for (int round = 0; round < 20; round++) {
    const int bits = rotations[round / 4 % 2][round % 4];
    x += y;
    y = (y << bits | y >> (32 - bits)) ^ x;
    if (round % 4 == 3) {
      const uint32_t group = round / 4 + 1;
      x += keys[group % 3];
      y += keys[(group + 1) % 3] + group;
    }
  }
  return x ^ y;
}

void drop(bool bfloat16, std::mt19937& random) {
  const int64_t examples = 1 + random() % 5, size = 1 + random() % 100;
  std::vector<uint32_t> keys(2 * examples);
  for (uint32_t& word : keys) word = random();
  const float keep = (1 + random() % 99) / 100.0f;
  const Array x(bfloat16, examples * size, random), y(bfloat16, examples * size);
  kernels::dropout_passes(bfloat16)->drop({examples, size, keys.data(), keep}, x.data(), y.data(),
                                          in_order);
  for (int64_t i = 0; i < examples * size; i++) {
    const uint32_t* key = &keys[i / size * 2];
    const double uniform = std::ldexp(threefry(key[0], key[1], i % size) >> 9, -23);
    check("dropout", size, y[i], uniform < keep ? x[i] / keep : 0, std::abs(x[i] / keep));
  }
}

}  // namespace

int main(int, char** arguments) {
  std::mt19937 random(std::atoi(arguments[1]));
  if (!kernels::normalization_passes(true)) return 0;  // this processor has none
  for (int i = 0; i < std::atoi(arguments[2]); i++) {
    for (const bool bfloat16 : {false, true}) {
      pool(bfloat16, random);
      drop(bfloat16, random);
      for (const auto activation : {kernels::Activation::kNone, kernels::Activation::kRelu}) {
        normalize(bfloat16, activation, true, random);
      }
      for (int activation = 0; activation < 5; activation++) {
        normalize(bfloat16, static_cast<kernels::Activation>(activation), false, random);
      }
    }
  }
  return failures > 0;
}
