/**
 * A thread that does jobs with files: as many as it is given, each a slice at a time.
 *
 * Started by file-workers.ts; ends with its process or when that ends it.
 */
import { parentPort } from 'node:worker_threads'
import { JOBS, type Job, type JobName, type Sent } from './jobs.ts'
import {
  failureOf,
  givenAway,
  type Answer,
  type Begin,
  type Order,
  type Report,
} from './messages.ts'

class ActiveJob<N extends JobName> {
  readonly #job: Job<N>
  readonly #answer: (answer: Answer<N>) => void
  /** Values that were sent while it was busy. */
  readonly #inbox: Sent<N>[] = []
  /** What it waits for before it goes on. */
  #waiting: Promise<void> | undefined
  #isAsking = false
  #isEnded = false

  constructor(job: Job<N>, answer: (answer: Answer<N>) => void) {
    this.#job = job
    this.#answer = answer
  }

  start(): void {
    this.#advance(() => this.#job.next())
  }

  next(sent: Sent<N>): void {
    this.#inbox.push(sent)
    if (this.#isAsking) this.#takeNext()
  }

  async stop(): Promise<void> {
    this.#isEnded = true
    // Files are not closed under a call that uses them.
    await Promise.allSettled([this.#waiting])
    try {
      this.#job.throw(new Error('the job was stopped'))
    } catch {
      // That error, or what came of it: nobody waits for the result.
    }
  }

  #takeNext(): void {
    if (this.#inbox.length === 0) return
    this.#isAsking = false
    const sent = this.#inbox.shift()
    this.#advance(() => this.#job.next(sent))
  }

  #advance(resume: () => ReturnType<Job<N>['next']>): void {
    if (this.#isEnded) return
    try {
      const { done, value } = resume()
      if (done === true) this.#end({ kind: 'result', result: value })
      else if (value === undefined) setImmediate(() => this.#advance(() => this.#job.next()))
      else if (value instanceof Promise) this.#wait(value)
      else {
        this.#answer({ kind: 'part', part: value })
        this.#isAsking = true
        this.#takeNext()
      }
    } catch (error) {
      this.#end({ kind: 'failed', failure: failureOf(error) })
    }
  }

  #wait(promise: Promise<void>): void {
    this.#waiting = promise
    promise.then(
      () => this.#advance(() => this.#job.next()),
      (error: unknown) => this.#advance(() => this.#job.throw(error)),
    )
  }

  #end(answer: Answer<N>): void {
    this.#isEnded = true
    this.#answer(answer)
  }
}

const port = parentPort
if (port === null) throw new Error('this file is run as a worker thread')
const active = new Map<number, { next(sent: Sent<JobName>): void; stop(): Promise<void> }>()

function begin<N extends JobName>({ id, name, input }: Begin<N>): void {
  const job = new ActiveJob<N>(JOBS[name](input), (answer) => {
    if (answer.kind !== 'part') active.delete(id)
    report({ id, answer })
  })
  active.set(id, job)
  job.start()
}

async function stop(id: number): Promise<void> {
  await active.get(id)?.stop()
  active.delete(id)
  report({ id, answer: { kind: 'stopped' } })
}

function report<N extends JobName>(message: Report<N>): void {
  const { answer } = message
  port?.postMessage(message, answer.kind === 'part' ? givenAway(answer.part) : [])
}

port.on('message', (order: Order) => {
  switch (order.kind) {
    case 'begin':
      begin(order)
      return
    case 'next':
      active.get(order.id)?.next(order.sent)
      return
    case 'stop':
      void stop(order.id)
  }
})
