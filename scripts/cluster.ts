/**
 * Real daemons on this machine, each with a data directory of its own: for the demo, the benches and
 * the end-to-end tests. Everything it starts is stopped when it is disposed, whatever happened before.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, openSync, closeSync, readFileSync, watch } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { hasCode } from '../src/base/errors.ts'
import { NODE_FILE, NodeFile } from '../src/wire/node-file.ts'

const ROOT = join(import.meta.dirname, '..')
const MESH = join(ROOT, 'bin/mesh')
export const MESH_NODE = join(ROOT, 'bin/mesh-node')

const READY_MS_MAX = 30_000
/** From SIGTERM to SIGKILL. */
const STOP_MS_MAX = 10_000
const LOG_LINES_SHOWN = 20
/** How often a condition that has no event is looked at again. */
const POLL_MS = 50

export interface DaemonOptions {
  readonly name: string
  /** Comma-separated. */
  readonly role: string
  readonly parents?: readonly Daemon[]
  /** A multiaddr, or `none` to dial out only. Default: a free port of 127.0.0.1. */
  readonly listen?: string
  readonly cpus?: number
  readonly args?: readonly string[]
  /** A command that becomes the one that follows it, such as `nsenter --net=FILE`. */
  readonly within?: readonly string[]
}

export interface Daemon {
  readonly name: string
  readonly directory: string
  readonly pid: number
  /** What it wrote when it was ready. */
  readonly file: NodeFile
  /** SIGTERM, and SIGKILL when that does not end it in time. Harmless when it has ended. */
  stop(): Promise<void>
  /** SIGKILL; resolves when the process is gone. */
  kill(): Promise<void>
}

export interface Finished {
  /** 128 + N for signal N, as a shell would say. */
  readonly code: number
  readonly stdout: string
  /** Empty when it was shown as it came. */
  readonly stderr: string
}

export interface Cluster extends AsyncDisposable {
  /** Holds the data directories and logs, and what else the caller puts there. */
  readonly directory: string
  /** Resolves when the daemon is ready; throws with its last log lines when it is not. */
  start(options: DaemonOptions): Promise<Daemon>
  /** Runs `mesh` against a daemon. */
  mesh(daemon: Daemon, args: readonly string[], options?: RunOptions): Promise<Finished>
  /** Leaves all as it is when the cluster is disposed. */
  keep(): void
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>
  /** Show stderr on our own as it comes. */
  readonly isShown?: boolean
  readonly cwd?: string
}

/** Our environment without settings that a person made for another daemon. */
function cleanEnv(more: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith('MESH_'))
  return { ...Object.fromEntries(own), ...more }
}

export async function openCluster(
  prefix: string,
  { signal }: { readonly signal?: AbortSignal } = {},
): Promise<Cluster> {
  const directory = await mkdtemp(join(tmpdir(), `${prefix}-`))
  const children: Child[] = []
  let isKept = false
  return {
    directory,
    async start(options) {
      signal?.throwIfAborted()
      const child = spawnDaemon(directory, options)
      children.push(child)
      const file = await untilReady(child, signal)
      return {
        name: options.name,
        directory: child.directory,
        pid: file.pid,
        file,
        stop: () => stopChild(child),
        kill: async () => {
          child.process.kill('SIGKILL')
          await child.exited
        },
      }
    },
    mesh: (daemon, args, options = {}) =>
      run(
        MESH,
        args,
        { ...options, env: { MESH_SOCKET: daemon.file.socket, ...options.env } },
        signal,
      ),
    keep() {
      isKept = true
    },
    async [Symbol.asyncDispose]() {
      if (isKept) {
        for (const child of children) child.process.unref()
        return
      }
      await Promise.all(children.map(stopChild))
      await rm(directory, { recursive: true, force: true, maxRetries: 5 })
    },
  }
}

interface Child {
  readonly name: string
  readonly directory: string
  readonly log: string
  readonly process: ChildProcess
  readonly exited: Promise<void>
}

function spawnDaemon(base: string, options: DaemonOptions): Child {
  const directory = join(base, options.name)
  const log = `${directory}.log`
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const output = openSync(log, 'a')
  const args = ['run', '--data', directory, '--name', options.name, '--role', options.role]
  args.push('--http', '127.0.0.1:0', '--listen', options.listen ?? '/ip4/127.0.0.1/tcp/0')
  for (const parent of options.parents ?? [])
    for (const address of parent.file.listen) args.push('--parent', address)
  if (options.cpus !== undefined) args.push('--cpus', String(options.cpus))
  // A session of its own: ^C reaches whoever runs the cluster, who then stops its daemons in order.
  const [program = MESH_NODE, ...rest] = [...(options.within ?? []), MESH_NODE, ...args]
  const child = spawn(program, [...rest, ...(options.args ?? [])], {
    env: cleanEnv(),
    stdio: ['ignore', output, output],
    detached: true,
  })
  closeSync(output)
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => resolve())
    child.once('error', () => resolve())
  })
  return { name: options.name, directory, log, process: child, exited }
}

/** Waits for `node.json` of this very process; a stale one has another pid. */
function untilReady(child: Child, signal?: AbortSignal): Promise<NodeFile> {
  return new Promise((resolve, reject) => {
    let isOver = false
    const end = (settle: () => void): void => {
      if (isOver) return
      isOver = true
      watcher.close()
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
      settle()
    }
    const fail = (what: string): void =>
      end(() => {
        const lines = lastLines(child.log)
        reject(new Error(`node ${child.name} ${what}; its last log lines:\n${lines}`))
      })
    const look = (): void => {
      try {
        const file = readNodeFile(child.directory)
        if (file?.pid === child.process.pid && file !== undefined) end(() => resolve(file))
      } catch (error) {
        end(() => reject(error))
      }
    }
    const onAbort = (): void => end(() => reject(signal?.reason))
    const watcher = watch(child.directory, look)
    const timer = setTimeout(() => fail(`was not ready in ${READY_MS_MAX / 1000} s`), READY_MS_MAX)
    signal?.addEventListener('abort', onAbort, { once: true })
    void child.exited.then(() =>
      fail(`ended with ${child.process.exitCode ?? child.process.signalCode} before it was ready`),
    )
    look()
  })
}

function readNodeFile(directory: string): NodeFile | undefined {
  try {
    return NodeFile.parse(JSON.parse(readFileSync(join(directory, NODE_FILE), 'utf8')))
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
}

function lastLines(path: string): string {
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n')
  return lines.slice(-LOG_LINES_SHOWN).join('\n') || '(nothing was logged)'
}

async function stopChild(child: Child): Promise<void> {
  if (child.process.exitCode !== null || child.process.signalCode !== null) return
  child.process.kill('SIGTERM')
  const timer = setTimeout(() => child.process.kill('SIGKILL'), STOP_MS_MAX)
  await child.exited
  clearTimeout(timer)
}

/** Runs a command to its end. An abort of `signal` ends it with SIGTERM and throws the signal's reason. */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
  signal?: AbortSignal,
): Promise<Finished> {
  signal?.throwIfAborted()
  const child = spawn(command, args, {
    env: cleanEnv(options.env),
    stdio: ['ignore', 'pipe', options.isShown === true ? 'inherit' : 'pipe'],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  })
  const onAbort = (): void => void child.kill('SIGTERM')
  signal?.addEventListener('abort', onAbort, { once: true })
  let stdout = ''
  let stderr = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  try {
    await once(child, 'close')
  } finally {
    signal?.removeEventListener('abort', onAbort)
  }
  signal?.throwIfAborted()
  return { code: child.exitCode ?? 128, stdout, stderr }
}

/** The one JSON value that `--json` prints as its last line. Throws with stderr when there is none. */
export function lastJson({ code, stdout, stderr }: Finished): unknown {
  const line = stdout.trimEnd().split('\n').at(-1) ?? ''
  if (!/^[[{]/.test(line))
    throw new Error(`exit ${code} without a line of JSON:\n${stdout}${stderr}`)
  return JSON.parse(line)
}

/** Looks again until `probe` has an answer, and fails after `READY_MS_MAX` with what was waited for. */
export async function until<T>(what: string, probe: () => Promise<T | undefined>): Promise<T> {
  const end = performance.now() + READY_MS_MAX
  for (;;) {
    const value = await probe()
    if (value !== undefined) return value
    if (performance.now() > end)
      throw new Error(`waited ${READY_MS_MAX / 1000} s in vain for ${what}`)
    await delay(POLL_MS)
  }
}

/** The signals by which a person or a supervisor ends a script, as one abort signal. */
export function interruptSignal(): AbortSignal {
  const controller = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(name, () => controller.abort(new Error(`interrupted by ${name}`)))
  return controller.signal
}
