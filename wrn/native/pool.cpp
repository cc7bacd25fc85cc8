// Memory for the large arrays of training on a CPU: one region from which torch takes them and to which they go back.
//
// What a step frees, the next array or step takes, so that nothing is given to the system and faulted in again page by
// page, and arrays whose lifetimes do not overlap share storage, as the paper's optnet arranged it beforehand. Small
// arrays, which would hold the gaps between large ones open, stay with torch's own allocator.

#include <c10/core/Allocator.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>

namespace {

constexpr size_t LARGE = 1 << 18;  // bytes from which an array counts as large
constexpr size_t UNIT = 64;        // what torch and oneDNN align to

class Pool final : public c10::Allocator {
   public:
    Pool(c10::Allocator* usual, char* region, size_t bytes)
        : usual_(usual), region_(region), end_(region + bytes), top_(region) {}

    c10::DataPtr allocate(size_t bytes) override {
        // One unit more than it takes: arrays of a power of two would all begin at the same place of a page
        const size_t size = (bytes + UNIT - 1) / UNIT * UNIT + UNIT;
        if (enabled && bytes >= LARGE)
            if (char* p = take(size)) return {p, p, &Pool::give_back, c10::Device(c10::DeviceType::CPU)};
        return usual_->allocate(bytes);
    }

    c10::DeleterFnPtr raw_deleter() const override { return &Pool::give_back; }

    void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

    // Gives the system the whole pages of the gaps.
    void trim() {
        const std::lock_guard<std::mutex> guard(mutex);
        for (const auto& [p, size] : gaps_) {
            const uintptr_t page = 4096, from = ((uintptr_t)p + page - 1) / page * page;
            const uintptr_t to = ((uintptr_t)p + size) / page * page;
            if (from < to) madvise((void*)from, to - from, MADV_DONTNEED);
        }
    }

    std::atomic<bool> enabled = true;
    std::mutex mutex;
    size_t in_use = 0, most_in_use = 0;
    size_t touched() const { return top_ - region_; }

   private:
    // The smallest gap that is large enough, of several the lowest; where there is none, more of the region.
    char* take(size_t size) {
        const std::lock_guard<std::mutex> guard(mutex);
        auto best = gaps_.end();
        for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap)
            if (gap->second >= size && (best == gaps_.end() || gap->second < best->second)) best = gap;
        char* p;
        if (best != gaps_.end()) {
            p = best->first;
            const size_t rest = best->second - size;
            gaps_.erase(best);
            if (rest) gaps_[p + size] = rest;
        } else {
            p = top_;
            auto last = gaps_.empty() ? gaps_.end() : std::prev(gaps_.end());
            const bool grows = last != gaps_.end() && last->first + last->second == top_;
            if (grows) p = last->first;
            if (size > (size_t)(end_ - p)) return nullptr;
            if (grows) gaps_.erase(last);
            top_ = p + size;
        }
        sizes_[p] = size;
        in_use += size;
        most_in_use = std::max(most_in_use, in_use);
        return p;
    }

    static void give_back(void* given);

    c10::Allocator* const usual_;
    char *const region_, *const end_;
    char* top_;  // nothing beyond it was ever used
    std::map<char*, size_t> gaps_;
    std::unordered_map<char*, size_t> sizes_;
};

Pool* pool = nullptr;  // lives as long as the process: arrays may outlive everything else

void Pool::give_back(void* given) {
    char* p = (char*)given;
    if (p < pool->region_ || p >= pool->end_) return pool->usual_->raw_deallocate(given);
    const std::lock_guard<std::mutex> guard(pool->mutex);
    const auto known = pool->sizes_.find(p);
    size_t size = known->second;
    pool->sizes_.erase(known);
    pool->in_use -= size;
    auto next = pool->gaps_.lower_bound(p);
    if (next != pool->gaps_.end() && next->first == p + size) {
        size += next->second;
        next = pool->gaps_.erase(next);
    }
    if (next != pool->gaps_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second == p) {
            before->second += size;
            return;
        }
    }
    pool->gaps_[p] = size;
}

}  // namespace

// Let torch take large arrays from a region of at most so many bytes, of which only what is used is ever real memory.
// Returns 0; or 1 if the system does not give the region, and all stays as it was.
extern "C" int pool_install(uint64_t bytes) {
    if (pool) return 0;
    void* region = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED) return 1;
    madvise(region, bytes, MADV_HUGEPAGE);
    pool = new Pool(c10::GetAllocator(c10::DeviceType::CPU), (char*)region, bytes);
    // A process that forks while another thread holds the mutex would leave it locked in the child
    pthread_atfork([] { pool->mutex.lock(); }, [] { pool->mutex.unlock(); }, [] { pool->mutex.unlock(); });
    c10::SetAllocator(c10::DeviceType::CPU, pool, 255);
    return 0;
}

// Whether new arrays come from it.
extern "C" void pool_enable(int enabled) { pool->enabled = enabled; }

extern "C" void pool_trim() { pool->trim(); }

// Bytes of large arrays now, at most so far, and from the region's begin to the end of what was ever used.
extern "C" void pool_statistics(uint64_t* numbers) {
    const std::lock_guard<std::mutex> guard(pool->mutex);
    numbers[0] = pool->in_use;
    numbers[1] = pool->most_in_use;
    numbers[2] = pool->touched();
}
