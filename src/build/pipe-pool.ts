/**
 * Pipes for the output of builds.
 *
 * Node's own pipes to children are sockets, which cannot be opened again as `/dev/stdout`; many builds do
 * that. So these are FIFOs, made a batch at a time since Node cannot make one itself, and gone from the
 * file system as soon as both ends are open.
 */
import { execFile } from 'node:child_process'
import { constants, fchownSync, openSync, renameSync, unlinkSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { Socket } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { SEARCH_PATH } from './tool-path.ts'

const BATCH = 64

export interface Pipe {
  readonly reader: Socket
  /** A descriptor for the child; the caller closes its own after the start. */
  readonly writer: number
}

export class PipePool implements AsyncDisposable {
  readonly #directory: string
  readonly #owner: { readonly uid: number; readonly gid: number }
  #ready: string[] = []
  #filling: Promise<void> | undefined
  #batches = 0

  private constructor(directory: string, owner: { uid: number; gid: number }) {
    this.#directory = directory
    this.#owner = owner
  }

  /** `owner` is whom builds run as: they may open their output again by name. */
  static async open(directory: string, owner: { uid: number; gid: number }): Promise<PipePool> {
    return new PipePool(await mkdtemp(join(directory, 'pipes-')), owner)
  }

  async take(): Promise<Pipe> {
    while (this.#ready.length === 0) await this.#fill()
    const path = this.#ready.pop() ?? ''
    // Opened without waiting for the other end, which comes next.
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const writer = openSync(path, constants.O_WRONLY)
    unlinkSync(path)
    if (this.#owner.uid !== process.geteuid?.())
      fchownSync(writer, this.#owner.uid, this.#owner.gid)
    return { reader: new Socket({ fd: reader, readable: true, writable: false }), writer }
  }

  /** Makes a FIFO at `path`, on the same file system, that stays there. */
  async name(path: string): Promise<void> {
    while (this.#ready.length === 0) await this.#fill()
    renameSync(this.#ready.pop() ?? '', path)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true })
  }

  #fill(): Promise<void> {
    this.#filling ??= this.#make().finally(() => {
      this.#filling = undefined
    })
    return this.#filling
  }

  async #make(): Promise<void> {
    const batch = this.#batches++
    const paths = Array.from({ length: BATCH }, (_, at) => join(this.#directory, `${batch}-${at}`))
    await promisify(execFile)('mkfifo', ['-m', '600', '--', ...paths], {
      env: { PATH: SEARCH_PATH },
    })
    this.#ready = paths
  }
}
