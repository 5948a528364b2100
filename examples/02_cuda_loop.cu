/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A protected training loop on a GPU: weights and moments of Adam in device memory, the
 * step counter in host memory, all in one snapshot after every step.
 *
 *   mpirun -n 2 02_cuda_loop       kill it whenever you like (Ctrl-C, kill -9),
 *   mpirun -n 2 02_cuda_loop       and it goes on where it was: the digest at the end is
 *                                  that of a run that nobody killed, to the last bit
 *
 * Ranks take the machine's GPUs in turn; several may share one.
 */
#include <cuda_runtime.h>
#include <ftmem.h>
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <unistd.h>

#define WEIGHTS (1 << 22)
#define STEPS 200
#define THREADS 256
#define BLOCKS (WEIGHTS / THREADS)

static struct {
	float *weight, *mean, *square; /* must not be lost */
	float *gradient;               /* made anew in each step */
	cudaStream_t stream;
} gpu;

static uint64_t step; /* must not be lost either */

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s\n", what, why);
	MPI_Abort(MPI_COMM_WORLD, 1);
}

static void check(const char *what, cudaError_t error)
{
	if (error != cudaSuccess)
		fail(what, cudaGetErrorString(error));
}

/* A number in [-1, 1) that follows from the other two. */
__device__ static float noise(uint64_t step, uint32_t i)
{
	uint64_t x = (step << 32 | i) * UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
	return (float)(x >> 40) / (1 << 23) - 1;
}

/* Reads the weights only. Each weight has a target of its own and sees one sample a step. */
__global__ static void forward_backward(const float *weight, float *gradient, uint64_t step)
{
	uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	float sample = noise(step, i), target = noise(0, i);

	gradient[i] = (weight[i] - target) * sample * sample;
}

/* The optimizer: the only kernel that writes what is protected. */
__global__ static void adam(float *weight, float *mean, float *square, const float *gradient,
                            uint64_t step)
{
	uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	float g = gradient[i], m = 0.9f * mean[i] + 0.1f * g;
	float s = 0.999f * square[i] + 0.001f * g * g;
	float m_hat = m / (1 - powf(0.9f, step)), s_hat = s / (1 - powf(0.999f, step));

	mean[i] = m;
	square[i] = s;
	weight[i] -= 0.01f * m_hat / (sqrtf(s_hat) + 1e-8f);
}

static void take_memory(int rank)
{
	float **array[] = {&gpu.weight, &gpu.mean, &gpu.square, &gpu.gradient};
	int devices;

	check("no GPU", cudaGetDeviceCount(&devices));
	check("cudaSetDevice", cudaSetDevice(rank % devices));
	check("cudaStreamCreate", cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking));
	for (float **a : array) {
		check("cudaMalloc", cudaMalloc(a, WEIGHTS * sizeof(float)));
		check("cudaMemset", cudaMemset(*a, 0, WEIGHTS * sizeof(float)));
	}
	check("cudaMemset", cudaDeviceSynchronize());
}

static int add(struct ftmem *ft, const char *name, void *addr, uint64_t bytes)
{
	struct ftmem_region region = FTMEM_REGION_INIT;

	region.name = name;
	region.addr = addr; /* whether the host's or a device's is seen from the address */
	region.bytes = bytes;
	return ftmem_region_add(ft, &region);
}

static int protect(struct ftmem **ft)
{
	struct ftmem_opts opts = FTMEM_OPTS_INIT;
	uint64_t bytes = WEIGHTS * sizeof(float), version;

	opts.job = "cuda-loop"; /* the same name finds the same memory again */
	if (ftmem_open(&opts, ft) < 0 || add(*ft, "weight", gpu.weight, bytes) < 0 ||
	    add(*ft, "mean", gpu.mean, bytes) < 0 || add(*ft, "square", gpu.square, bytes) < 0 ||
	    add(*ft, "step", &step, sizeof(step)) < 0 || ftmem_seal(*ft) < 0)
		return -1;
	return ftmem_restore(*ft, &version) < 0 ? -1 : 0; /* or FTMEM_FRESH: first start */
}

static void train_step(struct ftmem *ft)
{
	int rc;

	forward_backward<<<BLOCKS, THREADS, 0, gpu.stream>>>(gpu.weight, gpu.gradient, step + 1);
	/* The stream waits until the last snapshot has read the arrays, the host does not;
	 * the counter has been read when the call returns. */
	if (ftmem_fence(ft, gpu.stream) < 0)
		fail("ftmem_fence", ftmem_errmsg());
	step++;
	adam<<<BLOCKS, THREADS, 0, gpu.stream>>>(gpu.weight, gpu.mean, gpu.square, gpu.gradient,
	                                         step);
	check("kernels", cudaGetLastError());
	/* As of what is queued on the stream up to here. Whatever comes of it, the training goes
	 * on; FTMEM_BUSY: skipped, for the last one is still on its way. */
	rc = ftmem_snapshot(ft, step, gpu.stream);
	if (rc < 0 || rc == FTMEM_DROPPED)
		fprintf(stderr, "ftmem_snapshot: %s\n", ftmem_errmsg());
}

static uint64_t digest(void)
{
	static uint32_t word[WEIGHTS];
	uint64_t sum = UINT64_C(0xcbf29ce484222325);

	check("cudaMemcpy", cudaMemcpy(word, gpu.weight, sizeof(word), cudaMemcpyDeviceToHost));
	for (int i = 0; i < WEIGHTS; i++)
		sum = (sum ^ word[i]) * UINT64_C(0x100000001b3);
	return sum;
}

int main(int argc, char **argv)
{
	struct ftmem *ft = NULL;
	int level, rank;

	MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	take_memory(rank);
	if (protect(&ft) < 0)
		fail("protect", ftmem_errmsg());
	if (rank == 0)
		printf("starting at step %" PRIu64 "\n", step);
	while (step < STEPS) {
		train_step(ft);
		usleep(50000); /* a larger model would be at work here */
		check("training", cudaStreamSynchronize(gpu.stream));
		MPI_Barrier(MPI_COMM_WORLD); /* for the all-reduce of gradients */
		if (rank == 0 && step % 20 == 0)
			printf("step %" PRIu64 "\n", step);
		fflush(stdout);
	}
	printf("rank %d: digest %016" PRIx64 "\n", rank, digest());
	ftmem_forget(ft); /* the job is done: the next run begins anew */
	ftmem_close(ft);
	MPI_Finalize();
	return 0;
}
