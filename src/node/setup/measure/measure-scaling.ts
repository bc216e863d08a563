/**
 * How much more many processors do than one: hyperthreads, quotas and busy neighbours make it less than
 * their number. Each round runs so many threads for a time that covers several periods of a quota.
 */
import { extname, join } from 'node:path'
import { Worker } from 'node:worker_threads'

/** Periods of a quota last 0.1 s. */
const WINDOW_MS = 400
/** Above this the curve is known well enough, and threads cost memory. */
const THREADS_MAX = 256

export interface Scaling {
  readonly threads: number
  readonly times: number
}

/** Ascending, the first of one thread. Rejects with the signal's reason. */
export async function measureScaling(
  cpus: number,
  {
    signal,
    onRound,
  }: { readonly signal: AbortSignal; readonly onRound: (threads: number) => void },
): Promise<Scaling[]> {
  const most = Math.min(Math.max(1, cpus), THREADS_MAX)
  const curve: Scaling[] = []
  let alone = 1
  for (const threads of new Set([1, Math.ceil(most / 2), most])) {
    signal.throwIfAborted()
    onRound(threads)
    const work = await workOf(threads, signal)
    if (threads === 1) alone = Math.max(1, work)
    curve.push({ threads, times: work / alone })
  }
  return curve
}

async function workOf(threads: number, signal: AbortSignal): Promise<number> {
  const gate = new SharedArrayBuffer(4)
  const workers = Array.from({ length: threads }, () => startThread(gate))
  const end = (): void => void Promise.all(workers.map(({ thread }) => thread.terminate()))
  signal.addEventListener('abort', end, { once: true })
  try {
    await Promise.all(workers.map(({ ready }) => ready))
    const flag = new Int32Array(gate)
    Atomics.store(flag, 0, 1)
    Atomics.notify(flag, 0)
    const pieces = await Promise.all(workers.map(({ done }) => done))
    return pieces.reduce((sum, count) => sum + count, 0)
  } catch (error) {
    signal.throwIfAborted()
    throw error
  } finally {
    signal.removeEventListener('abort', end)
    await Promise.all(workers.map(({ thread }) => thread.terminate()))
  }
}

interface LoadThread {
  readonly thread: Worker
  readonly ready: Promise<void>
  readonly done: Promise<number>
}

function startThread(gate: SharedArrayBuffer): LoadThread {
  const program = join(import.meta.dirname, `load-thread${extname(import.meta.filename)}`)
  const thread = new Worker(program, {
    name: 'load',
    workerData: { gate, windowMs: WINDOW_MS },
  })
  const ready = Promise.withResolvers<void>()
  const done = Promise.withResolvers<number>()
  thread.on('message', (message: unknown) => {
    if (typeof message === 'number') done.resolve(message)
    else ready.resolve()
  })
  const fail = (error: Error): void => {
    ready.reject(error)
    done.reject(error)
  }
  thread.once('error', fail)
  thread.once('exit', () => fail(new Error('a thread that measures ended before it told anything')))
  // Both are awaited by the caller, but one after the other.
  ready.promise.catch(() => undefined)
  done.promise.catch(() => undefined)
  return { thread, ready: ready.promise, done: done.promise }
}
