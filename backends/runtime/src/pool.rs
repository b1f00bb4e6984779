//! The thread pool of a session.
//!
//! One job at a time is cut into chunks. A 64-bit word holds `epoch << 32 | next chunk`; a thread takes a chunk
//! by compare-exchange, so a thread that wakes late cannot touch a finished job, and the caller waits for
//! *finished chunks*, never for a thread that has taken none: a worker that lost its core costs nothing.
//!
//! Between jobs the word is closed (`next == CLOSED`) before the job's fields change and published after, so that
//! a compare-exchange that succeeds proves that the fields it was decided on belong to the same job.
//!
//! Workers spin for a bounded *time* while a run is in progress (steps follow each other within microseconds)
//! and sleep on a futex otherwise.
#![allow(unsafe_code)]

use crate::cpu::FloatEnv;
use crate::error::RuntimeError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// `body(worker, begin, end)` computes the tiles `begin..end`; `worker` is below the pool's thread count and no
/// two concurrent calls have the same.
pub type Body<'a> = &'a (dyn Fn(usize, i64, i64) + Sync);

/// The low word of a pool between two jobs.
const CLOSED: u32 = u32::MAX;

/// Chunks a thread gets on average: enough that a slow thread is compensated, few enough to claim cheaply.
const CHUNKS_PER_THREAD: i64 = 8;

/// Stack of a worker. Kernels keep large temporaries in scratch.
const STACK_BYTES: usize = 256 << 10;

/// A job; lives on the caller's stack while it runs.
struct Job<'a> {
    body: Body<'a>,
    tiles: i64,
    chunk: i64,
    done: AtomicU32,
    panicked: AtomicBool,
}

/// What the caller and the workers share.
struct Shared {
    /// `epoch << 32 | next chunk`.
    claim: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    chunks: AtomicU32,
    /// Bumped for each job; the futex that workers sleep on.
    generation: AtomicU32,
    sleepers: AtomicU32,
    /// A run is in progress: spin between jobs.
    hot: AtomicBool,
    stop: AtomicBool,
    spin: Duration,
}

/// A caller's own thread pool: `call(context, n, body, argument)` calls `body(argument, i)` for all `i < n`, in
/// any order, on any threads, and returns when all have returned.
#[derive(Clone, Copy, Debug)]
pub struct ParallelFor {
    /// The function.
    pub call: unsafe extern "C" fn(
        context: *mut std::ffi::c_void,
        count: u32,
        body: unsafe extern "C" fn(*mut std::ffi::c_void, u32),
        argument: *mut std::ffi::c_void,
    ),
    /// Its first argument.
    pub context: *mut std::ffi::c_void,
}

// SAFETY: the caller promises that the function and its context may be used from the thread that runs.
unsafe impl Send for ParallelFor {}
// SAFETY: as above.
unsafe impl Sync for ParallelFor {}

/// A pool of `threads` threads, the caller included.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    threads: usize,
    external: Option<ParallelFor>,
    pid: u32,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts `threads - 1` workers, or none if `external` does the work. `spin` bounds how long they wait
    /// actively between two jobs of a run.
    ///
    /// # Errors
    /// [`RuntimeError::NoMemory`] if the system refuses a thread.
    pub fn new(threads: usize, spin: Duration, external: Option<ParallelFor>) -> Result<Pool, RuntimeError> {
        let threads = threads.clamp(1, crate::cpu::MAX_THREADS);
        let shared = Arc::new(Shared {
            claim: AtomicU64::new(u64::from(CLOSED)),
            job: AtomicPtr::new(std::ptr::null_mut()),
            chunks: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            hot: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            spin,
        });
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
            threads,
            external,
            pid: std::process::id(),
        };
        if external.is_none() {
            let _blocked = BlockSignals::new();
            for worker in 1..threads {
                let shared = Arc::clone(&pool.shared);
                let handle = std::thread::Builder::new()
                    .name(format!("rsqc-{worker}"))
                    .stack_size(STACK_BYTES)
                    .spawn(move || work(&shared, worker))
                    .map_err(|e| RuntimeError::NoMemory(format!("cannot start a thread: {e}")))?;
                pool.workers.push(handle);
            }
        }
        Ok(pool)
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether no other thread could take part without being woken. A caller's own pool counts as awake.
    pub fn all_asleep(&self) -> bool {
        self.external.is_none() && self.shared.sleepers.load(Ordering::Relaxed) as usize >= self.workers.len()
    }

    /// Marks the start (`true`) or the end of a run: between jobs of a run workers spin, after it they sleep.
    ///
    /// # Errors
    /// [`RuntimeError::Internal`] in a child process: threads do not survive a fork.
    pub fn set_hot(&self, hot: bool) -> Result<(), RuntimeError> {
        if hot && self.pid != std::process::id() && !self.workers.is_empty() {
            return Err(RuntimeError::Internal(
                "the session's threads did not survive the fork; open a new session in the child".into(),
            ));
        }
        self.shared.hot.store(hot, Ordering::Relaxed);
        Ok(())
    }

    /// Calls `body` for all tiles `0..tiles`, on all threads, and returns when every tile is done.
    ///
    /// # Errors
    /// [`RuntimeError::Internal`] if the body panicked.
    pub fn run(&self, tiles: i64, body: Body<'_>) -> Result<(), RuntimeError> {
        if tiles <= 0 {
            return Ok(());
        }
        let chunks = tiles.min(self.threads as i64 * CHUNKS_PER_THREAD);
        let chunk = tiles / chunks + i64::from(tiles % chunks != 0);
        // Rounding up may leave fewer chunks than planned.
        let chunks = (tiles / chunk + i64::from(tiles % chunk != 0)) as u32;
        let job = Job {
            body,
            tiles,
            chunk,
            done: AtomicU32::new(0),
            panicked: AtomicBool::new(false),
        };
        if self.threads == 1 || chunks == 1 {
            run_chunk(&job, 0, 0, tiles);
        } else if let Some(external) = self.external {
            run_external(external, self.threads as u32, &job, chunks);
        } else {
            self.run_shared(&job, chunks);
        }
        if job.panicked.load(Ordering::Relaxed) {
            return Err(RuntimeError::Internal("a kernel panicked".into()));
        }
        Ok(())
    }

    fn run_shared(&self, job: &Job<'_>, chunks: u32) {
        let shared = &*self.shared;
        let epoch = (shared.claim.load(Ordering::Relaxed) >> 32) as u32;
        let closed = (u64::from(epoch.wrapping_add(1)) << 32) | u64::from(CLOSED);
        shared.claim.store(closed, Ordering::SeqCst);
        // The lifetime is erased: the job is only followed by holders of a chunk, and this function does not
        // return before all chunks are done.
        shared
            .job
            .store(std::ptr::from_ref(job).cast_mut().cast(), Ordering::Release);
        shared.chunks.store(chunks, Ordering::Release);
        let open = u64::from(epoch.wrapping_add(2)) << 32;
        shared.claim.store(open, Ordering::SeqCst);
        shared.generation.fetch_add(1, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            futex_wake(&shared.generation, i32::MAX);
        }
        while claim_and_run(shared, 0) {}
        let mut turns = 0u32;
        while job.done.load(Ordering::Acquire) < chunks {
            // A worker that holds a chunk may have lost its core: after a while let it have this one.
            if turns < 2000 {
                turns += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        shared.claim.store(closed.wrapping_add(2 << 32), Ordering::SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if self.pid != std::process::id() {
            // The threads exist only in the parent process; forget their handles.
            self.workers.drain(..).for_each(std::mem::forget);
            return;
        }
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        futex_wake(&self.shared.generation, i32::MAX);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its jobs, so that there is nothing to report here.
            let _ = worker.join();
        }
    }
}

/// Runs the tiles of one chunk and counts it as done even if it panics.
fn run_chunk(job: &Job<'_>, worker: usize, begin: i64, end: i64) {
    if catch_unwind(AssertUnwindSafe(|| (job.body)(worker, begin, end))).is_err() {
        job.panicked.store(true, Ordering::Relaxed);
    }
    job.done.fetch_add(1, Ordering::Release);
}

/// Takes one chunk of the current job and runs it; false if there is none.
fn claim_and_run(shared: &Shared, worker: usize) -> bool {
    let mut word = shared.claim.load(Ordering::SeqCst);
    loop {
        let next = word as u32;
        if next == CLOSED {
            return false;
        }
        let job = shared.job.load(Ordering::Acquire);
        if next >= shared.chunks.load(Ordering::Acquire) {
            return false;
        }
        match shared
            .claim
            .compare_exchange_weak(word, word + 1, Ordering::SeqCst, Ordering::SeqCst)
        {
            Ok(_) => {
                // SAFETY: the exchange succeeded, so the word did not change since it was read: `job` is the
                // job of that epoch, and its owner waits for the chunk that was just taken.
                let job = unsafe { &*job };
                let begin = i64::from(next) * job.chunk;
                run_chunk(job, worker, begin, begin.saturating_add(job.chunk).min(job.tiles));
                return true;
            }
            Err(now) => word = now,
        }
    }
}

/// The life of a worker.
fn work(shared: &Shared, worker: usize) {
    let _float_env = FloatEnv::set_default();
    loop {
        while claim_and_run(shared, worker) {}
        let deadline = Instant::now() + shared.spin;
        let mut found = false;
        while !found && shared.hot.load(Ordering::Relaxed) && Instant::now() < deadline {
            for _ in 0..32 {
                std::hint::spin_loop();
            }
            found = claim_and_run(shared, worker);
        }
        if found {
            continue;
        }
        // Announce the sleep before the last look, as the publisher looks at `sleepers` after publishing.
        shared.sleepers.fetch_add(1, Ordering::SeqCst);
        let generation = shared.generation.load(Ordering::SeqCst);
        let stopping = shared.stop.load(Ordering::SeqCst);
        if !stopping && !claimable(shared) {
            futex_wait(&shared.generation, generation);
        }
        shared.sleepers.fetch_sub(1, Ordering::SeqCst);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
    }
}

fn claimable(shared: &Shared) -> bool {
    let next = shared.claim.load(Ordering::SeqCst) as u32;
    next != CLOSED && next < shared.chunks.load(Ordering::SeqCst)
}

/// The argument of [`external_body`].
struct External<'a> {
    job: &'a Job<'a>,
    next: AtomicI64,
    chunks: u32,
}

/// Every index of the caller's `parallel_for` is one participant that takes chunks until none is left; whatever
/// the caller's pool does with order and threads, all chunks are done when it returns.
fn run_external(external: ParallelFor, threads: u32, job: &Job<'_>, chunks: u32) {
    let argument = External {
        job,
        next: AtomicI64::new(0),
        chunks,
    };
    // SAFETY: the function was given for this use; the argument outlives the call.
    unsafe {
        (external.call)(
            external.context,
            threads,
            external_body,
            std::ptr::from_ref(&argument).cast_mut().cast(),
        );
    }
    // A parallel_for that drops indices must not lose tiles.
    // SAFETY: the argument is alive and `external_body` only shares it.
    unsafe { external_body(std::ptr::from_ref(&argument).cast_mut().cast(), 0) };
}

unsafe extern "C" fn external_body(argument: *mut std::ffi::c_void, index: u32) {
    // SAFETY: `run_external` passes an `External`.
    let external = unsafe { &*argument.cast::<External<'_>>() };
    let _float_env = FloatEnv::set_default();
    loop {
        let chunk = external.next.fetch_add(1, Ordering::Relaxed);
        if chunk >= i64::from(external.chunks) {
            return;
        }
        let begin = chunk * external.job.chunk;
        let end = begin.saturating_add(external.job.chunk).min(external.job.tiles);
        run_chunk(external.job, index as usize, begin, end);
    }
}

fn futex_wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the word outlives the call; a spurious return is handled by the caller's loop.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            std::ptr::null::<libc::timespec>(),
        );
    }
}

fn futex_wake(word: &AtomicU32, count: i32) {
    // SAFETY: the word outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            count,
        );
    }
}

/// Blocks all signals of this thread while workers are started, which inherit the mask: the host program's
/// signal handlers must not run on the small stacks of threads it does not know.
struct BlockSignals {
    old: libc::sigset_t,
}

impl BlockSignals {
    fn new() -> BlockSignals {
        // SAFETY: an all-zero set is valid storage, filled before use.
        let (mut all, mut old): (libc::sigset_t, libc::sigset_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: both sets are writable locals.
        unsafe {
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        }
        BlockSignals { old }
    }
}

impl Drop for BlockSignals {
    fn drop(&mut self) {
        // SAFETY: restores the mask saved by `new`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.old, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pool: &Pool, tiles: i64) {
        let counts: Vec<AtomicU32> = (0..tiles).map(|_| AtomicU32::new(0)).collect();
        let busy: Vec<AtomicBool> = (0..pool.threads()).map(|_| AtomicBool::new(false)).collect();
        pool.run(tiles, &|worker, begin, end| {
            assert!(
                !busy[worker].swap(true, Ordering::SeqCst),
                "two bodies on worker {worker}"
            );
            for tile in begin..end {
                counts[tile as usize].fetch_add(1, Ordering::Relaxed);
            }
            busy[worker].store(false, Ordering::SeqCst);
        })
        .expect("no panic");
        assert!(
            counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
            "{tiles} tiles"
        );
    }

    #[test]
    fn every_tile_runs_once() {
        for threads in [1, 2, 3, 7] {
            for spin in [0, 50] {
                let pool = Pool::new(threads, Duration::from_micros(spin), None).expect("threads");
                for round in 0..300 {
                    pool.set_hot(round % 3 != 0).expect("no fork");
                    check(&pool, [0, 1, 2, 3, 15, 16, 17, 63, 1000][round % 9]);
                }
            }
        }
    }

    #[test]
    fn many_empty_jobs() {
        let pool = Pool::new(4, Duration::from_micros(20), None).expect("threads");
        pool.set_hot(true).expect("no fork");
        let sum = AtomicI64::new(0);
        for _ in 0..20_000 {
            pool.run(5, &|_, begin, end| {
                sum.fetch_add((begin..end).sum(), Ordering::Relaxed);
            })
            .expect("no panic");
        }
        assert_eq!(sum.into_inner(), 200_000);
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_survives() {
        let pool = Pool::new(3, Duration::from_micros(50), None).expect("threads");
        let result = pool.run(100, &|_, begin, _| assert!(begin == 0, "planted"));
        assert!(matches!(result, Err(RuntimeError::Internal(_))));
        check(&pool, 100);
    }

    unsafe extern "C" fn reversed(
        _: *mut std::ffi::c_void,
        count: u32,
        body: unsafe extern "C" fn(*mut std::ffi::c_void, u32),
        argument: *mut std::ffi::c_void,
    ) {
        // Leaves one index out on purpose: no tile may be lost.
        for i in (1..count).rev() {
            // SAFETY: passes the argument on.
            unsafe { body(argument, i) };
        }
    }

    #[test]
    fn a_callers_parallel_for_runs_all_tiles() {
        let external = ParallelFor {
            call: reversed,
            context: std::ptr::null_mut(),
        };
        let pool = Pool::new(4, Duration::ZERO, Some(external)).expect("no threads needed");
        check(&pool, 1000);
        let lazy = Pool::new(1, Duration::ZERO, Some(external)).expect("no threads needed");
        check(&lazy, 1000);
    }
}
