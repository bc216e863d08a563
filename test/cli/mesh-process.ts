/** Runs `bin/mesh` as its users do, in a directory of its own. */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

export const MESH = join(import.meta.dirname, '../../bin/mesh')

export interface Ended {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
  readonly stdoutBytes: Buffer
}

export class Workplace implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'mesh-work-'))
  readonly env: Record<string, string>
  /** A program, with its first arguments, that the client is started by. */
  launcher: readonly string[] = []

  constructor(env: Readonly<Record<string, string>> = {}) {
    this.env = {
      PATH: process.env['PATH'] ?? '/usr/bin:/bin',
      HOME: this.directory,
      XDG_DATA_HOME: join(this.directory, 'data'),
      LANG: 'C.UTF-8',
      ...env,
    }
  }

  write(path: string, text: string | Uint8Array, mode = 0o644): string {
    const full = join(this.directory, path)
    mkdirSync(dirname(full), { recursive: true })
    writeFileSync(full, text, { mode })
    return full
  }

  start(...args: readonly string[]): { child: ChildProcess; ended: Promise<Ended> } {
    const [program = MESH, ...rest] = [...this.launcher, MESH, ...args]
    const child = spawn(program, rest, {
      cwd: this.directory,
      env: this.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const out: Buffer[] = []
    const err: Buffer[] = []
    child.stdout.on('data', (bytes: Buffer) => out.push(bytes))
    child.stderr.on('data', (bytes: Buffer) => err.push(bytes))
    const ended = new Promise<Ended>((done, fail) => {
      child.on('error', fail)
      child.on('close', (code) =>
        done({
          code: code ?? -1,
          stdout: Buffer.concat(out).toString(),
          stderr: Buffer.concat(err).toString(),
          stdoutBytes: Buffer.concat(out),
        }),
      )
    })
    return { child, ended }
  }

  mesh(...args: readonly string[]): Promise<Ended> {
    return this.start(...args).ended
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true, force: true })
  }
}
