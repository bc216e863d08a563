/** Root directories made for one test: files of /proc, /sys and of userlands that are not this machine's. */
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { ELF_KINDS, makeTrialProgram } from '../../../src/build/probe/trial-program.ts'

export interface Root extends AsyncDisposable {
  readonly path: string
}

/** What lies at a path: text, a program of a system, or a link. */
export type Content = string | { readonly program: string } | { readonly link: string }

export async function makeRoot(files: Readonly<Record<string, Content>> = {}): Promise<Root> {
  const path = await mkdtemp(join(tmpdir(), 'mesh-root-'))
  await put(path, files)
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true }) }
}

export async function put(root: string, files: Readonly<Record<string, Content>>): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    const path = join(root, name)
    await mkdir(dirname(path), { recursive: true })
    if (typeof content === 'string') await writeFile(path, content)
    else if ('link' in content) await symlink(content.link, path)
    else await writeFile(path, programOf(content.program), { mode: 0o755 })
  }
}

export function programOf(system: string): Buffer {
  const kind = ELF_KINDS.get(system)
  if (kind === undefined) throw new Error(`no program for ${system}`)
  return makeTrialProgram(kind)
}
