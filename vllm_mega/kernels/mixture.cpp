// The CPU kernel: y[t] += sum_k w[t,k] * B[s] @ (A[s] @ x[t]), for one layer and all tokens of a step.
//
// kernels/native.py compiles this file for the machine it runs on and calls `mega_add_mixture_*`;
// kernels/cpu.py has the layout of every argument. Sums are float32 and in one order per token
// (slots ascending, ranks ascending), whatever else is in the batch. What is rounded to the type of the
// weights: A @ x with its weight, once, and `y`, once.

#include <omp.h>

#include <vector>

#include "mixture.h"
#include "mixture_amx.h"
#include "mixture_lanes.h"

namespace {

constexpr double kSerialWork = 1 << 16;  // multiply-adds below which waking the threads costs more

// What a step is for a layer: its multiply-adds, and the largest rank that it uses.
struct Load {
  double work = 0;
  int64_t rank = 0;
};

// False: a rank that cannot be.
inline bool survey(const Layer& layer, const Step& step, Load& load) {
  const int32_t groups = step.tiles ? step.tile_group[step.tiles] : 0;
  for (int32_t g = 0; g < groups; ++g)
    for (int64_t p = 0; p < layer.slices; ++p) {
      const int64_t rank = layer.rank(step.group_slot[g], p);
      if (rank < 0 || rank > layer.max_rank) return false;
      load.rank = std::max(load.rank, rank);
      load.work += double(step.group_entry[g + 1] - step.group_entry[g]) * rank * (layer.inputs + layer.outputs[p]);
    }
  return true;
}

// Job: Lanes or Amx.
template <typename Job>
void work(const Job& job, int64_t tiles, int threads) {
  using T = typename Job::Type;
  int64_t size = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) size = std::max(size, job.hidden_size(tile));
  static thread_local std::vector<T> scratch;
  if (int64_t(scratch.size()) < size * threads) scratch.resize(size * threads);
  T* hidden = scratch.data();
  if (threads == 1) {
    const typename Job::Registers registers;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      job.shrink(tile, hidden, 0, 1);
      job.expand(tile, hidden, 0, 1);
    }
  } else if (tiles >= threads) {  // a tile for each: no thread waits for another
#pragma omp parallel num_threads(threads)
    {
      const typename Job::Registers registers;
      T* own = hidden + size * omp_get_thread_num();
#pragma omp for schedule(dynamic)
      for (int64_t tile = 0; tile < tiles; ++tile) {
        job.shrink(tile, own, 0, 1);
        job.expand(tile, own, 0, 1);
      }
    }
  } else {  // few tokens: the weights are the work, so they are divided
#pragma omp parallel num_threads(threads)
    {
      const typename Job::Registers registers;
      const int part = omp_get_thread_num(), parts = omp_get_num_threads();
      for (int64_t tile = 0; tile < tiles; ++tile) {
        job.shrink(tile, hidden, part, parts);
#pragma omp barrier
        job.expand(tile, hidden, part, parts);
#pragma omp barrier
      }
    }
  }
}

template <typename Job>
int add_mixture(const Layer& layer, const Step& step, const Rows<typename Job::Type>& rows) {
  Load load;
  if (step.rows > rows.count) return 1;
  if (!survey(layer, step, load)) return 2;
  if (load.work == 0) return 0;
  work(Job(layer, step, rows, load.rank), step.tiles, load.work < kSerialWork ? 1 : omp_get_max_threads());
  return 0;
}

}  // namespace

extern "C" {

// 0, or why nothing was done. 1: fewer rows than the plan has tokens. 2: a rank that cannot be.
#define MEGA_ADD_MIXTURE(name, Job)                                                                              \
  int mega_add_mixture_##name(const RawLayer* layer, const RawStep* step, void* y, int64_t y_stride,             \
                              const void* x, int64_t x_stride, int64_t count) {                                  \
    using T = Job::Type;                                                                                         \
    const Rows<T> rows{static_cast<const T*>(x), x_stride, static_cast<T*>(y), y_stride, count};                 \
    return add_mixture<Job>(Layer(*layer), Step(*step), rows);                                                   \
  }
MEGA_ADD_MIXTURE(float32, Lanes<float>)
MEGA_ADD_MIXTURE(bfloat16, Lanes<BFloat16>)
#if defined(MEGA_AMX)
MEGA_ADD_MIXTURE(amx, Amx)
#endif

// Whether `mega_add_mixture_amx` is there, and this process may call it: asks the kernel for the registers.
int mega_has_amx() { return amx_allowed(); }
}
