/** A directory that looks like the root of a machine to sensors. */
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

export class FakeMachine implements Disposable {
  readonly root = mkdtempSync(join(tmpdir(), 'mesh-machine-'))

  write(path: string, text: string): void {
    const full = join(this.root, path)
    mkdirSync(dirname(full), { recursive: true })
    writeFileSync(full, text)
  }

  /** Somebody typed at `/dev/NAME` then. */
  typed(name: string, atWallMs: number): void {
    this.write(`dev/${name}`, '')
    utimesSync(join(this.root, 'dev', name), atWallMs / 1000, atWallMs / 1000)
  }

  session(id: string, values: Readonly<Record<string, string>>): void {
    const text = Object.entries({ CLASS: 'user', STATE: 'active', ...values })
      .map(([name, value]) => `${name}=${value}\n`)
      .join('')
    this.write(`run/systemd/sessions/${id}`, `# This is private data. Do not parse.\n${text}`)
  }

  remove(path: string): void {
    rmSync(join(this.root, path), { recursive: true })
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true })
  }
}
