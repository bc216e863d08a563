/**
 * What a build writes: two pipes, read into the spool of its log up to a limit, with lines of our own between.
 *
 * Read to the end also when nothing more is kept, so that no process hangs on a full pipe.
 */
import { closeSync } from 'node:fs'
import type { Socket } from 'node:net'
import type { Clock } from '../../base/clock.ts'
import { hasCode, messageOf } from '../../base/errors.ts'
import type { LogStream } from '../../wire/log-record.ts'
import type { BuildEnd } from '../executor-protocol.ts'
import { LogSpool } from '../log-spool.ts'
import type { Pipe, PipePool } from '../pipe-pool.ts'

/** How long pipes are read after the build's end: a process that fled from a plain one may hold them open. */
const DRAIN_MS = 1000
const TAIL_CHARS = 500

interface OutputDeps {
  readonly clock: Clock
  readonly pipes: PipePool
}

interface OutputListener {
  /** Asked at each piece of output. */
  readonly sizeBytesMax: () => number
  /** It wrote something. */
  readonly onOutput: () => void
  /** Bytes in the spool. */
  readonly onGrowth: (sizeBytes: number) => void
  /** It has to end: its log is full, or cannot be written. */
  readonly onEnd: (end: BuildEnd) => void
}

export class BuildOutput implements AsyncDisposable {
  readonly #deps: OutputDeps
  readonly #spool: LogSpool
  readonly #listener: OutputListener
  #pipes: readonly Pipe[] = []
  #reading: readonly Promise<void>[] = []
  #isFull = false
  #stderrTail = ''

  private constructor(deps: OutputDeps, spool: LogSpool, listener: OutputListener) {
    this.#deps = deps
    this.#spool = spool
    this.#listener = listener
  }

  /** Makes the spool at `path`. Its records have times since now. */
  static async open(
    deps: OutputDeps,
    path: string,
    listener: OutputListener,
  ): Promise<BuildOutput> {
    const { clock } = deps
    const openedAtMs = clock.nowMs()
    const { onGrowth } = listener
    const elapsedMs = (): number => clock.nowMs() - openedAtMs
    return new BuildOutput(deps, await LogSpool.open(path, { elapsedMs, onGrowth }), listener)
  }

  /** Of the spool. */
  get sizeBytes(): number {
    return this.#spool.sizeBytes
  }

  /** The last that it wrote on stderr. */
  get stderrTail(): string {
    return this.#stderrTail
  }

  /** A line of our own; on a full disk it is lost, and what the build says next tells of that. */
  note(line: string): void {
    this.#spool.append('mesh', Buffer.from(line)).catch(() => {})
  }

  /** Descriptors for its stdout and stderr, open until `read`. */
  async connect(): Promise<readonly [number, number]> {
    const { pipes } = this.#deps
    const [out, err] = [await pipes.take(), await pipes.take()]
    this.#pipes = [out, err]
    return [out.writer, err.writer]
  }

  /** The build has its descriptors, or will never have any: closes ours and begins to read. */
  read(): void {
    for (const { writer } of this.#pipes) closeSync(writer)
    this.#reading = this.#pipes.map(({ reader }, at) =>
      this.#readFrom(at === 0 ? 'stdout' : 'stderr', reader),
    )
  }

  /** After its end: until all is read, or no process of it should be there any more that writes. */
  async drain(): Promise<void> {
    const timer = this.#deps.clock.setTimer(DRAIN_MS, () =>
      this.#pipes.forEach(({ reader }) => reader.destroy()),
    )
    await Promise.all(this.#reading)
    timer.cancel()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#spool.close()
  }

  async #readFrom(stream: LogStream, reader: Socket): Promise<void> {
    const { sizeBytesMax, onOutput, onEnd } = this.#listener
    try {
      for await (const bytes of reader) {
        onOutput()
        if (stream === 'stderr')
          this.#stderrTail = (this.#stderrTail + String(bytes)).slice(-TAIL_CHARS)
        if (this.#isFull || (await this.#spool.append(stream, bytes, sizeBytesMax()))) continue
        this.#isFull = true
        onEnd({ kind: 'limit', limit: 'log' })
      }
    } catch (error) {
      if (hasCode(error, 'ERR_STREAM_PREMATURE_CLOSE')) return // given up after the build's end
      reader.destroy()
      onEnd({ kind: 'infrastructure', message: `writing the log: ${messageOf(error)}` })
    }
  }
}
