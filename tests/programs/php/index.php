<?php
// What the built-in server answers.
echo "hello ", $_SERVER["REQUEST_URI"], " ", array_sum(range(1, 100)), " ", md5("kiln");
