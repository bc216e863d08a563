/** What an image is, found by looking into it: the system that its programs run on, and what people call it. */
import { parseElf } from '../elf.ts'
import type { Inside } from './inside.ts'

export interface Recognised {
  /** Undefined where no program was found. */
  readonly system: string | undefined
  readonly label: string
}

/** The first one that is there tells the system: most images have a shell. */
const PROGRAMS = [
  '/bin/sh',
  '/usr/bin/sh',
  '/usr/bin/env',
  '/bin/busybox',
  '/usr/bin/make',
  '/usr/bin/gcc',
  '/lib64/ld-linux-x86-64.so.2',
  '/lib/ld-linux-aarch64.so.1',
]
const PROGRAM_BYTES_MAX = 64 * 1024 * 1024
const RELEASE_FILES = ['/etc/os-release', '/usr/lib/os-release']
const RELEASE_BYTES_MAX = 64 * 1024
const LABEL_MAX = 64

export async function recognise(inside: Inside): Promise<Recognised> {
  return { system: await systemOf(inside), label: await labelOf(inside) }
}

async function systemOf(inside: Inside): Promise<string | undefined> {
  for (const path of PROGRAMS) {
    const bytes = await inside.read(path, PROGRAM_BYTES_MAX)
    const system = bytes === undefined ? undefined : parseElf(bytes)?.system
    if (system !== undefined) return system
  }
  return undefined
}

async function labelOf(inside: Inside): Promise<string> {
  for (const path of RELEASE_FILES) {
    const bytes = await inside.read(path, RELEASE_BYTES_MAX)
    if (bytes === undefined) continue
    const values = valuesOf(Buffer.from(bytes).toString('utf8'))
    const name = [
      values.get('ID') ?? 'linux',
      values.get('VERSION_ID') ?? values.get('VERSION_CODENAME') ?? '',
    ]
      .filter((part) => part !== '')
      .join('-')
    // No control character gets into a table of people.
    return name.replaceAll(/\p{Cc}/gu, '').slice(0, LABEL_MAX)
  }
  return ''
}

/** Of os-release(5): shell assignments, quoted or not. */
function valuesOf(text: string): ReadonlyMap<string, string> {
  const values = new Map<string, string>()
  for (const line of text.split('\n')) {
    const [, name, quoted, single, plain] =
      /^([A-Z_][A-Z0-9_]*)=(?:"([^"]*)"|'([^']*)'|(\S*))\s*$/.exec(line) ?? []
    if (name !== undefined) values.set(name, quoted ?? single ?? plain ?? '')
  }
  return values
}
