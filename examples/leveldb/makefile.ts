/**
 * Writes a directory in which `make -jN` runs exactly the commands of the graph, for comparison:
 * `node examples/leveldb/makefile.ts DIRECTORY`.
 *
 * Each step gets a work directory with its inputs linked in beforehand, so that make pays for nothing
 * but the commands.
 */
import { mkdir, symlink, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { leveldbSteps, sourcesDirectory } from './steps.ts'

const HEADER = `# Written by examples/leveldb/makefile.ts.
SHELL := /bin/sh
.SHELLFLAGS := -euc
export PATH := /usr/bin:/bin
export LC_ALL := C
export TMPDIR := $(CURDIR)/tmp
`

/** `directory` must not exist, or be empty. `make run` is the last step; its result is `out/run`. */
export async function writeMakefile(directory: string): Promise<void> {
  const sources = sourcesDirectory()
  await mkdir(join(directory, 'out'), { recursive: true })
  await mkdir(join(directory, 'tmp'))
  const steps = leveldbSteps()
  const rules = [`export headers := ${sources}\nall: out/${steps.at(-1)?.name}`]
  for (const step of steps) {
    const work = join(directory, 'work', step.name)
    await mkdir(work, { recursive: true })
    const needed: string[] = []
    for (const [name, input] of Object.entries(step.inputs)) {
      if ('step' in input) needed.push(`out/${input.step}`)
      const target = 'step' in input ? `../../out/${input.step}` : resolve(sources, input.file)
      await symlink(target, join(work, name))
    }
    const command = step.command.replaceAll('$', '$$$$')
    rules.push(
      `out/${step.name}: ${needed.join(' ')}\n\t@cd work/${step.name} && out=$(CURDIR)/$@ && ${command}`,
    )
  }
  await writeFile(join(directory, 'Makefile'), `${HEADER}\n${rules.join('\n\n')}\n`)
}

if (import.meta.main) {
  const directory = process.argv[2]
  if (directory === undefined) throw new Error('usage: makefile.ts DIRECTORY')
  await writeMakefile(resolve(directory))
}
