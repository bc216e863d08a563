/**
 * Builds LevelDB with snappy, links a program with it and runs that: 41 compile units and 5 more steps.
 *
 *   mesh submit examples/leveldb/graph.ts && cat result/run
 *
 * Each unit gets its one source file and a tree of all headers. A change of one source therefore rebuilds
 * one unit and what is made of it, and nothing beyond an output that came out the same.
 */
import { resolve } from 'node:path'
import { defineGraph, path } from '@buildmesh/mesh/api'
import { leveldbSteps, sourcesDirectory } from './steps.ts'

export default defineGraph((graph) => {
  const sources = sourcesDirectory()
  const headers = path(sources, { include: ['**/*.h'] })
  for (const step of leveldbSteps()) {
    const inputs = Object.entries(step.inputs).map(([name, input]) => [
      name,
      'step' in input ? { output: `${input.step}.out` } : path(resolve(sources, input.file)),
    ])
    graph.derivation(step.name, {
      builder: '/bin/sh',
      args: ['-euc', step.command],
      // Where a machine lets no sandbox be made: a plain process, which may see undeclared files.
      sealed: process.env['LEVELDB_SEALED'] !== 'no',
      inputs: { ...Object.fromEntries(inputs), ...(step.needsHeaders ? { headers } : {}) },
    })
  }
})
