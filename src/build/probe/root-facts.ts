/**
 * What another root file system is: a chroot, or an image that was unpacked. It is looked at, and then entered
 * to see whether its programs run here. Nothing in it is changed.
 */
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { removeTree } from '../../files/workers/remove-job.ts'
import type { Ability } from './known.ts'
import { probeAllSystems, tryInRoot, type Runnable } from './systems.ts'
import { readUserland, resolveIn, type Platform } from './userland.ts'

export interface RootFacts {
  readonly v: 1
  readonly root: string
  /** Null where nothing in it says so. */
  readonly system: string | null
  readonly platform: Platform
  /** What told both. */
  readonly how: string
  /** How its programs would run here. */
  readonly runs: Runnable['how'] | 'no'
  /** Whether its shell really ran, in it. */
  readonly entered: Ability
  /** Programs of WANTED_TOOLS that its shell finds; empty where it was not entered. */
  readonly tools: readonly string[]
}

/** What builds ask for first. */
const WANTED_TOOLS = 'cc gcc clang c++ ld as ar make cmake ninja python3 perl node go rustc java'
const SCRIPT = `PATH=/usr/local/bin:/usr/bin:/bin
for tool in ${WANTED_TOOLS}; do command -v "$tool" >/dev/null && echo "$tool"; done
exit 0`
const SHELLS = ['/bin/sh', '/usr/bin/sh', '/bin/busybox']

export async function probeRoot(root: string, directory = tmpdir()): Promise<RootFacts> {
  const { system, platform, how } = await readUserland(root)
  const facts = { v: 1, root, system: system ?? null, platform, how } as const
  const no = (why: string): RootFacts => ({
    ...facts,
    runs: 'no',
    entered: { ok: false, why },
    tools: [],
  })
  if (system === undefined) return no('nothing in it tells its system')
  const { runnable, others } = await probeAllSystems({ directory })
  const found = runnable.find((candidate) => candidate.system === system)
  if (found === undefined)
    return no(others.find((other) => other.system === system)?.why ?? `no probe knows ${system}`)
  const shell = await firstOf(root, SHELLS)
  if (shell === undefined)
    return {
      ...facts,
      runs: found.how,
      entered: { ok: false, why: 'it has no /bin/sh to run' },
      tools: [],
    }
  const own = await mkdtemp(join(directory, 'mesh-root-'))
  try {
    const command = shell.endsWith('busybox') ? [shell, 'sh'] : [shell]
    const { registration } = found
    const tried = await tryInRoot(root, [...command, '-c', SCRIPT], {
      binfmt: own,
      ...(registration === undefined ? {} : { registration }),
    })
    return {
      ...facts,
      runs: found.how,
      entered:
        tried.code === 0
          ? { ok: true, why: `${shell} ran in it` }
          : { ok: false, why: `${shell}: ${tried.why}` },
      tools: tried.code === 0 ? tried.stdout.split('\n').filter((name) => name !== '') : [],
    }
  } finally {
    await removeTree(own)
  }
}

async function firstOf(root: string, paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) if ((await resolveIn(root, path)) !== undefined) return path
  return undefined
}
