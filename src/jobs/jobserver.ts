/**
 * The jobserver of one build: a FIFO of tokens and a socket that tells a number, in one directory, both fed
 * from the one number of jobs that the build has.
 */
import { chmodSync, chownSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import type { Random } from '../base/random.ts'
import { CountSocket, makeToken } from './count-socket.ts'
import { jobserverVariables, type MakeStyle } from './make-style.ts'
import { TokenFifo, TOKENS_MAX } from './token-fifo.ts'
import type { TokenPool } from './token-pool.ts'

export const FIFO_NAME = 'jobserver'
export const SOCKET_NAME = 'buildsocket'

export interface JobserverDeps {
  readonly clock: Clock
  readonly random: Random
  readonly pool: TokenPool
  /** Makes a FIFO that its owner alone may open; Node cannot. */
  readonly makeFifo: (path: string) => Promise<void>
}

export interface JobserverOptions {
  /** Of the build; its own in the pool. */
  readonly id: string
  /** Is there. */
  readonly directory: string
  readonly jobs: number
  /** More jobs are never lent to it; absent: none. */
  readonly jobsMost?: number | undefined
  readonly busy?: () => number | undefined
  /** Whom the build runs as, where that is not who we are. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined
}

export class Jobserver implements AsyncDisposable {
  readonly #id: string
  readonly #pool: TokenPool
  readonly #fifo: TokenFifo
  readonly #socket: CountSocket
  readonly #token: string

  private constructor(
    { id }: JobserverOptions,
    parts: {
      readonly pool: TokenPool
      readonly fifo: TokenFifo
      readonly socket: CountSocket
      readonly token: string
    },
  ) {
    this.#id = id
    this.#pool = parts.pool
    this.#fifo = parts.fifo
    this.#socket = parts.socket
    this.#token = parts.token
  }

  /** Throws MESH0505, or what the system says of the directory. */
  static async open(
    { clock, random, pool, makeFifo }: JobserverDeps,
    options: JobserverOptions,
  ): Promise<Jobserver> {
    const { id, directory, jobs, jobsMost = jobs, busy, owner } = options
    const path = join(directory, FIFO_NAME)
    const token = makeToken(random)
    await makeFifo(path)
    const fifo = new TokenFifo(path)
    let socket: CountSocket | undefined
    try {
      socket = await CountSocket.open(
        { clock },
        { path: join(directory, SOCKET_NAME), token, count: jobs },
      )
      for (const at of [path, socket.path]) {
        chmodSync(at, 0o600)
        if (owner !== undefined) chownSync(at, owner.uid, owner.gid)
      }
      pool.open(id, fifo, {
        tokens: tokensOf(jobs),
        most: tokensOf(jobsMost),
        ...(busy === undefined ? {} : { busy }),
      })
      return new Jobserver(options, { pool, fifo, socket, token })
    } catch (error) {
      fifo.close()
      await socket?.[Symbol.asyncDispose]()
      throw error
    }
  }

  setJobs(jobs: number): void {
    this.#pool.grant(this.#id, tokensOf(jobs))
    this.#socket.set(jobs)
  }

  /**
   * What tools look at. `directory` is what the build sees ours as; `descriptors` what it inherits, both
   * opened on the FIFO.
   */
  variables(
    style: MakeStyle,
    seen: { readonly directory: string; readonly descriptors: readonly [number, number] },
  ): Record<string, string> {
    return {
      ...jobserverVariables(style, {
        path: `${seen.directory}/${FIFO_NAME}`,
        descriptors: seen.descriptors,
      }),
      BUILDSOCKET: `${seen.directory}/${SOCKET_NAME}`,
      BUILDTOKEN: this.#token,
    }
  }

  /** The build is over: its tokens go to others, and its token is good for nothing. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.close(this.#id)
    await this.#socket[Symbol.asyncDispose]()
    this.#fifo.close()
    await rm(this.#fifo.path, { force: true })
  }
}

/** The first job of a build needs no token. */
const tokensOf = (jobs: number): number => Math.min(TOKENS_MAX, Math.max(1, jobs) - 1)
