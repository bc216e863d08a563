/** A real executor in a temporary directory, and builds on it, for the tests of this folder. */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { systemClock } from '../../src/base/clock.ts'
import {
  openExecutor,
  type Build,
  type BuildOutcome,
  type BuildSpec,
  type Executor,
  type SandboxChoice,
} from '../../src/build/executor.ts'
import type { SandboxForbid } from '../../src/build/executor-protocol.ts'
import { removeTree } from '../../src/files/workers/remove-job.ts'
import { LogDecoder, type LogRecord } from '../../src/wire/log-record.ts'

export const SEALED_METHODS = ['helper', 'bwrap', 'unshare'] as const
export type SealedMethod = (typeof SEALED_METHODS)[number]

export interface Ran {
  readonly outcome: BuildOutcome
  readonly directory: string
  readonly records: readonly LogRecord[]
  readonly stdout: string
  readonly stderr: string
  readonly notes: string
}

export class Builds implements AsyncDisposable {
  readonly directory: string
  readonly executor: Executor
  #count = 0

  private constructor(directory: string, executor: Executor) {
    this.directory = directory
    this.executor = executor
  }

  static async open(forbid: SandboxForbid = []): Promise<Builds> {
    const directory = await mkdtemp(join(tmpdir(), 'mesh-build-'))
    const executor = await openExecutor(
      { clock: systemClock(), log: { info() {}, warn() {} } },
      { directory, forbid },
    )
    return new Builds(directory, executor)
  }

  get sandbox(): SandboxChoice {
    return this.executor.sandbox
  }

  async start(
    script: string | readonly string[],
    more: Partial<BuildSpec> = {},
  ): Promise<{ build: Build; directory: string }> {
    const attempt = `a-${process.pid}x${this.#count++}`
    const directory = join(this.directory, attempt)
    await mkdir(directory)
    const build = this.executor.start({
      attempt,
      isolation: this.sandbox.method === 'none' ? 'host' : 'namespace',
      directory,
      argv: typeof script === 'string' ? ['/bin/sh', '-c', script] : script,
      env: { PATH: '/usr/bin:/bin', HOME: '/build/home' },
      cwd: '/build/work',
      inputs: [],
      network: false,
      limits: { timeoutMs: 60_000, maxSilentMs: 60_000, maxLogBytes: 1024 * 1024 },
      ...more,
    })
    return { build, directory }
  }

  async run(script: string | readonly string[], more: Partial<BuildSpec> = {}): Promise<Ran> {
    const { build, directory } = await this.start(script, more)
    return readRun(await build.outcome, directory)
  }

  /** Runs a script that must exit 0; its stdout. */
  async output(script: string, more: Partial<BuildSpec> = {}): Promise<string> {
    const ran = await this.run(script, more)
    assert.deepEqual(
      ran.outcome.end,
      { kind: 'exited', code: 0 },
      `${script}\n${ran.stdout}${ran.stderr}`,
    )
    return ran.stdout
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.executor[Symbol.asyncDispose]()
    await removeTree(this.directory)
  }
}

export async function readRun(outcome: BuildOutcome, directory: string): Promise<Ran> {
  const decoder = new LogDecoder()
  const bytes = await readFile(join(directory, 'log'))
  const records = decoder.push(bytes)
  assert.equal(decoder.pendingBytes, 0)
  assert.equal(outcome.logBytes, bytes.byteLength)
  const text = (stream: LogRecord['stream']): string =>
    Buffer.concat(
      records.filter((record) => record.stream === stream).map(({ bytes: part }) => part),
    ).toString('latin1')
  return {
    outcome,
    directory,
    records,
    stdout: text('stdout'),
    stderr: text('stderr'),
    notes: text('mesh'),
  }
}

/** Waits for a condition, at most 20 s. */
export async function until(
  what: string,
  condition: () => Promise<boolean> | boolean,
): Promise<void> {
  const deadline = performance.now() + 20_000
  while (!(await condition())) {
    assert(performance.now() < deadline, `never came true: ${what}`)
    await delay(10)
  }
}

/** Pids of the processes, of all namespaces, that have this word in their command line. */
export async function processesWith(word: string): Promise<number[]> {
  const found: number[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
    const line = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')
    if (line.split('\0').includes(word)) found.push(Number(name))
  }
  return found
}

let marks = 0
/** A duration for `sleep` that no other process on this machine has, to find its process by. */
export const uniqueSleep = (): string => `${100_000 + process.pid}.${++marks}`
