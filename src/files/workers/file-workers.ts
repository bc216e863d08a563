/**
 * A few threads that read, hash, write, link and remove files with calls that block, so that the main
 * thread never does: such a call costs a third of an awaited one, and a gigabyte takes a second of hashing.
 *
 * Threads start when they are first needed and keep no process alive that has nothing else to do. When one
 * dies its jobs fail, and the next job starts another.
 */
import { extname, join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { MeshError, messageOf } from '../../base/errors.ts'
import { nextTurn } from '../map-limited.ts'
import {
  JOBS,
  type Input,
  type Job,
  type JobName,
  type Part,
  type Result,
  type Sent,
} from './jobs.ts'
import {
  errorOf,
  givenAway,
  type Answer,
  type Begin,
  type Order,
  type Report,
  type Step,
} from './messages.ts'

const THREADS = 2
/** Jobs at once of one pool: they take turns. One more is refused with MESH0505. */
const JOBS_MAX = 4096

export interface RunningJob<N extends JobName> {
  /**
   * Starts the job, or sends it the next value: its next part, or its result. Calls may overlap and are
   * answered in their order. Rejects with what the job throws.
   */
  next(...sent: [] | [Sent<N>]): Promise<Step<N>>
  /** Ends it wherever it is; resolves when it holds nothing any more. Harmless after its end. */
  stop(): Promise<void>
}

export interface FileWorkers extends AsyncDisposable {
  start<N extends JobName>(name: N, input: Input<N>): RunningJob<N>
}

/** The jobs that tell nothing before their end. */
type PlainJobName = { [N in JobName]: [Part<N>] extends [never] ? N : never }[JobName]

/** Does one job to its end. */
export async function runJob<N extends PlainJobName>(
  workers: FileWorkers,
  name: N,
  input: Input<N>,
): Promise<Result<N>> {
  const step = await workers.start(name, input).next()
  if (step.kind === 'result') return step.result
  throw new Error(`the job ${name} has no parts`)
}

/** Does the jobs on the calling thread, with turns for others in between. */
export function inlineFileWorkers(): FileWorkers {
  return {
    start: (name, input) => new InlineJob(JOBS[name](input)),
    [Symbol.asyncDispose]: async () => undefined,
  }
}

class InlineJob<N extends JobName> implements RunningJob<N> {
  readonly #job: Job<N>
  #last: Promise<unknown> = Promise.resolve()
  #isStopped = false

  constructor(job: Job<N>) {
    this.#job = job
  }

  next(...[sent]: [] | [Sent<N>]): Promise<Step<N>> {
    const step = this.#last.then(() => this.#advance(sent))
    this.#last = Promise.allSettled([step])
    return step
  }

  async #advance(sent: Sent<N> | undefined): Promise<Step<N>> {
    if (this.#isStopped) throw new Error('the job was stopped')
    let step = this.#job.next(sent)
    for (;;) {
      if (step.done === true) return { kind: 'result', result: step.value }
      const { value } = step
      if (value !== undefined && !(value instanceof Promise)) return { kind: 'part', part: value }
      const [waited] = await Promise.allSettled([value ?? nextTurn()])
      if (this.#isStopped) throw new Error('the job was stopped')
      step = waited.status === 'rejected' ? this.#job.throw(waited.reason) : this.#job.next()
    }
  }

  async stop(): Promise<void> {
    this.#isStopped = true
    await this.#last
    try {
      this.#job.throw(new Error('the job was stopped'))
    } catch {
      // That error, or what came of it: nobody waits for the result.
    }
  }
}

/** What failures of threads are told to. */
interface WorkersLog {
  warn(fields: object, message: string): void
}

/** Starts no thread yet. Disposing of it fails what is still being done. */
export function openFileWorkers(
  deps: { readonly log: WorkersLog },
  options: {
    readonly threads?: number
    readonly jobsMax?: number
    /** What a thread runs; tests have one that dies. */
    readonly program?: string
  } = {},
): FileWorkers {
  const program = join(import.meta.dirname, `file-worker${extname(import.meta.filename)}`)
  return new ThreadPool(deps.log, { threads: THREADS, jobsMax: JOBS_MAX, program, ...options })
}

interface PoolOptions {
  readonly threads: number
  readonly jobsMax: number
  readonly program: string
}

class ThreadPool implements FileWorkers {
  readonly #log: WorkersLog
  readonly #options: PoolOptions
  readonly #threads = new Set<Thread>()
  #isClosed = false

  constructor(log: WorkersLog, options: PoolOptions) {
    this.#log = log
    this.#options = options
  }

  start<N extends JobName>(name: N, input: Input<N>): RunningJob<N> {
    if (this.#isClosed) throw new MeshError('MESH0108', 'the node is stopping')
    return this.#pick().start(name, input)
  }

  /** The one with the fewest jobs, or a new one rather than one that is busy. */
  #pick(): Thread {
    let jobCount = 0
    let idlest: Thread | undefined
    for (const thread of this.#threads) {
      jobCount += thread.jobCount
      if (idlest === undefined || thread.jobCount < idlest.jobCount) idlest = thread
    }
    const { threads, jobsMax, program } = this.#options
    if (jobCount >= jobsMax)
      throw new MeshError('MESH0505', `${jobCount} jobs with files are under way already`)
    if (idlest !== undefined && (idlest.jobCount === 0 || this.#threads.size >= threads))
      return idlest
    const thread = new Thread(program, (cause) => {
      this.#threads.delete(thread)
      if (!this.#isClosed) this.#log.warn({ err: cause }, 'a thread for files ended')
    })
    this.#threads.add(thread)
    return thread
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    await Promise.all([...this.#threads].map((thread) => thread.end()))
  }
}

/** One thread and the jobs that it does. */
class Thread {
  readonly #worker: Worker
  readonly #jobs = new Map<number, ActiveJob>()
  #lastId = 0

  constructor(program: string, onEnd: (cause: Error) => void) {
    // Without the options of this process: a test runner's are not for threads.
    this.#worker = new Worker(program, { name: 'files', execArgv: [] })
    this.#worker.unref()
    let cause = new MeshError('MESH0505', 'a thread for files ended')
    this.#worker.on('message', ({ id, answer }: Report) => this.#jobs.get(id)?.settle(answer))
    this.#worker.on('error', (error) => {
      cause = new MeshError('MESH0505', `a thread for files failed: ${messageOf(error)}`, {
        cause: error,
      })
    })
    this.#worker.on('exit', () => {
      onEnd(cause)
      for (const job of this.#jobs.values()) job.fail(cause)
    })
  }

  get jobCount(): number {
    return this.#jobs.size
  }

  start<N extends JobName>(name: N, input: Input<N>): RunningJob<N> {
    const id = ++this.#lastId
    const job = new ThreadJob<N>({
      begin: { kind: 'begin', id, name, input },
      post: (order, given) => this.#worker.postMessage(order, given),
      onEnd: () => {
        this.#jobs.delete(id)
        if (this.#jobs.size === 0) this.#worker.unref()
      },
    })
    if (this.#jobs.size === 0) this.#worker.ref()
    this.#jobs.set(id, job)
    return job
  }

  async end(): Promise<void> {
    this.#worker.ref() // or its end would not be waited for
    await this.#worker.terminate()
  }
}

interface ActiveJob {
  settle(answer: Answer<JobName>): void
  fail(error: Error): void
}

interface ThreadJobOptions<N extends JobName> {
  readonly begin: Begin<N>
  readonly post: (order: Order, given: ArrayBuffer[]) => void
  readonly onEnd: () => void
}

class ThreadJob<N extends JobName> implements RunningJob<N>, ActiveJob {
  readonly #options: ThreadJobOptions<N>
  /** Calls that wait for their answers, oldest first. */
  readonly #waiting: PromiseWithResolvers<Step<N>>[] = []
  readonly #end = Promise.withResolvers<void>()
  #isBegun = false
  #isEnded = false

  constructor(options: ThreadJobOptions<N>) {
    this.#options = options
  }

  next(...[sent]: [] | [Sent<N>]): Promise<Step<N>> {
    if (this.#isEnded) return Promise.reject(new Error('the job has ended'))
    const step = Promise.withResolvers<Step<N>>()
    this.#waiting.push(step)
    const { begin, post } = this.#options
    if (this.#isBegun) post({ kind: 'next', id: begin.id, sent }, givenAway(sent))
    else post(begin, [])
    this.#isBegun = true
    return step.promise
  }

  settle(answer: Answer<N>): void {
    switch (answer.kind) {
      case 'part':
        this.#waiting.shift()?.resolve(answer)
        return
      case 'result':
        this.#waiting.shift()?.resolve(answer)
        this.fail(new Error('the job has ended'))
        return
      case 'failed':
        this.fail(errorOf(answer.failure))
        return
      case 'stopped':
        this.fail(new Error('the job was stopped'))
    }
  }

  fail(error: Error): void {
    this.#isEnded = true
    for (const { reject } of this.#waiting.splice(0)) reject(error)
    this.#options.onEnd()
    this.#end.resolve()
  }

  async stop(): Promise<void> {
    if (this.#isEnded) return
    this.#options.post({ kind: 'stop', id: this.#options.begin.id }, [])
    await this.#end.promise
  }
}
