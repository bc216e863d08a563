/**
 * `npm run bench -- [--long] [subject...]`: runs the subjects by name, or all. Prints a table for each and,
 * last, one JSON object per subject; the same is in bench/results/SUBJECT.json. With `--long` a subject
 * that knows more seeds or larger sizes takes them, and its results go to SUBJECT.long.json.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { messageOf } from '../src/base/errors.ts'
import { interruptSignal } from '../scripts/cluster.ts'
import type { Figures, Subject } from './subject.ts'

const SUFFIX = '.bench.ts'
const RESULTS = join(import.meta.dirname, 'results')

async function loadSubject(name: string): Promise<Subject> {
  const module: { subject: Subject } = await import(`./${name}${SUFFIX}`)
  return module.subject
}

function git(...args: readonly string[]): string {
  return execFileSync('git', args, {
    cwd: import.meta.dirname,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  }).trim()
}

/** The commit that was measured, with `+` when the checkout had changes; `unknown` outside of git. */
function commitOf(): string {
  try {
    const isChanged = git('status', '--porcelain', '--', ':/', ':!/bench/results') !== ''
    return git('rev-parse', '--short=12', 'HEAD') + (isChanged ? '+' : '')
  } catch {
    return 'unknown' // an unpacked archive has no history
  }
}

function printTable(name: string, figures: Figures): void {
  const rows = Object.entries(figures).map(([what, { value, unit, peer, ratio }]) => [
    what,
    `${value} ${unit}`,
    typeof peer === 'number' ? `${peer} ${unit}` : (peer ?? ''),
    ratio === undefined ? '' : ratio.toFixed(2),
  ])
  const table = [[name.toUpperCase(), 'VALUE', 'PEER', 'RATIO'], ...rows]
  const widths = [0, 1, 2].map((column) =>
    Math.max(...table.map((row) => row[column]?.length ?? 0)),
  )
  for (const row of table)
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
  console.log()
}

async function main(): Promise<number> {
  const known = readdirSync(import.meta.dirname)
    .filter((file) => file.endsWith(SUFFIX))
    .map((file) => file.slice(0, -SUFFIX.length))
    .toSorted()
  const scale = process.argv.includes('--long') ? 'long' : 'quick'
  const asked = process.argv.slice(2).filter((argument) => argument !== '--long')
  const unknown = asked.filter((name) => !known.includes(name))
  if (unknown.length > 0) {
    console.error(`there is no subject ${unknown.join(', ')}; there are ${known.join(', ')}`)
    return 2
  }
  const signal = interruptSignal()
  const machine = {
    commit: commitOf(),
    date: new Date().toISOString(),
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    node: process.version,
  }
  mkdirSync(RESULTS, { recursive: true })
  const lines: string[] = []
  let failedCount = 0
  for (const name of asked.length > 0 ? asked : known) {
    if (signal.aborted) break
    try {
      const subject = await loadSubject(name)
      const log = (line: string): void => console.error(`${name}: ${line}`)
      const figures = await subject.run({ signal, log, scale })
      printTable(name, figures)
      const line = JSON.stringify({ subject: name, ...machine, figures })
      writeFileSync(
        join(RESULTS, scale === 'long' ? `${name}.long.json` : `${name}.json`),
        `${JSON.stringify(JSON.parse(line), undefined, 2)}\n`,
      )
      lines.push(line)
    } catch (error) {
      console.error(`${name}: ${messageOf(error)}`)
      failedCount++
    }
  }
  for (const line of lines) console.log(line)
  return signal.aborted ? 130 : failedCount > 0 ? 1 : 0
}

process.exitCode = await main()
